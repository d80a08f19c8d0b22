#pragma once
// A base that stands for Callback: what these plug-ins register is listed, never made.

#include <trainer/core/registry.h>

struct CallbackName {
  using Base = CallbackName;
  static constexpr const char* kKind = "callback";
};
