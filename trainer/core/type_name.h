#pragma once
// The name of an object's class, as users know it.

#include <string>
#include <typeinfo>

#include <c10/util/Type.h>

namespace trainer {

/// The class of `object` without its namespaces.
template <class T>
std::string type_name(const T& object) {
  const std::string name = c10::demangle(typeid(object).name());
  const size_t colon = name.rfind(':');
  return colon == std::string::npos ? name : name.substr(colon + 1);
}

}  // namespace trainer
