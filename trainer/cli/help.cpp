#include <fmt/format.h>

#include <trainer/cli/command.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

std::string default_text(const config::Node& value) {
  std::string text = config::to_yaml(value);
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text.find('\n') == std::string::npos ? text : "...";
}

std::string key_tree(const std::vector<config::FieldInfo>& fields, const std::string& prefix) {
  std::string text;
  for (const auto& field : fields) {
    if (!field.fields.empty()) {
      text += key_tree(field.fields, prefix + field.name + ".");
      continue;
    }
    const std::string rules = field.rules.empty() ? "" : fmt::format(" ({})", field.rules);
    text += fmt::format("  --{}{}={}\n      {}: {}{}\n", prefix, field.name,
                        field.required ? "<" + field.type + ">" : default_text(field.default_value),
                        field.type, field.doc, rules);
  }
  return text;
}

}  // namespace

std::string help_for_stage(Stage stage) {
  return fmt::format(
      "\nKeys of the configuration, each also an override (--trainer.max_epochs=3):\n{}\n"
      "A class is its name, or {{class_path: NAME, init_args: {{...}}}}. `trainer list` shows the "
      "classes,\n"
      "`trainer {} --help NAME` the arguments of one.\n",
      key_tree(config::describe<RunConfig>(), ""), to_string(stage));
}

std::string help_for_class(const std::string& name) {
  for (const char* kind : kKinds) {
    if (const auto info = registry::find(kind, name)) {
      const std::string fields =
          info->fields.empty() ? "  takes no arguments\n" : key_tree(info->fields, "");
      return fmt::format("{} ({}, {})\n{}{}init_args:\n{}", info->name, kind, info->origin,
                         info->doc, info->doc.empty() ? "" : "\n", fields);
    }
  }
  if (name == "Trainer") {
    return "Trainer\n" + key_tree(config::describe<TrainerConfig>(), "trainer.");
  }
  throw ConfigError(fmt::format(
      "--help {}: there is no such class. `trainer list` shows them; --plugin or a --config "
      "with `plugins:` adds more.",
      name));
}

}  // namespace trainer
