#include <fmt/format.h>

#include <trainer/cli/command.h>
#include <trainer/cli/plugin.h>
#include <trainer/core/console.h>

namespace trainer {
namespace {

std::string class_line(const ClassInfo& info) {
  std::string names = info.name;
  for (const auto& alias : info.aliases) {
    names += ", " + alias;
  }
  return fmt::format("  {:<34}{}{}[{}]\n", names, info.doc, info.doc.empty() ? "" : " ",
                     info.origin);
}

}  // namespace

int list_classes(const Arguments& arguments) {
  load_plugins(arguments.config);
  load_available_plugins();
  std::string text;
  for (const char* kind : kKinds) {
    const auto classes = registry::list(kind);
    if (classes.empty()) {
      continue;
    }
    text += fmt::format("{}:\n", kind);
    for (const auto& info : classes) {
      text += class_line(*info);
    }
  }
  console::print(text);
  return static_cast<int>(ExitCode::kOk);
}

}  // namespace trainer
