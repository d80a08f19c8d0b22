#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/cli/command.h>
#include <trainer/cli/plugin.h>
#include <trainer/core/console.h>

namespace trainer {
namespace {

using Json = nlohmann::ordered_json;

/// By the names that the Codecs of trainer/core/config.h give their types.
Json schema_of(const std::string& type) {
  static const std::map<std::string, Json> kScalars = {
      {"bool", {{"type", "boolean"}}},
      {"int", {{"type", "integer"}}},
      {"float", {{"type", "number"}}},
      {"int or float", {{"type", "number"}}},
      {"string", {{"type", Json::array({"string", "number", "boolean"})}}}};  // any scalar
  if (const auto scalar = kScalars.find(type); scalar != kScalars.end()) {
    return scalar->second;
  }
  const auto rest = [&](std::string_view start) { return type.substr(start.size()); };
  if (constexpr std::string_view kOrNull = " or null"; type.ends_with(kOrNull)) {
    const Json null = {{"type", "null"}};
    return {
        {"anyOf", Json::array({schema_of(type.substr(0, type.size() - kOrNull.size())), null})}};
  }
  if (constexpr std::string_view kList = "list of "; type.starts_with(kList)) {
    return {{"type", "array"}, {"items", schema_of(rest(kList))}};
  }
  if (constexpr std::string_view kMap = "map of "; type.starts_with(kMap)) {
    return {{"type", "object"}, {"additionalProperties", schema_of(rest(kMap))}};
  }
  for (const std::string kind : kKinds) {
    if (type == kind) {
      return {{"$ref", "#/$defs/" + kind}};
    }
  }
  return Json::object();  // any, or a type whose Codec is the user's
}

Json schema_of(const std::vector<config::FieldInfo>& fields) {
  Json schema = {{"type", "object"}, {"properties", Json::object()}};
  for (const auto& field : fields) {
    Json property = field.fields.empty() ? schema_of(field.type) : schema_of(field.fields);
    if (!field.choices.empty()) {
      property = {{"enum", field.choices}};
      if (field.type.ends_with(" or null")) {
        property["enum"].push_back(nullptr);
      }
      for (const auto& choice : field.choices) {
        if (choice.find_first_not_of("0123456789") == std::string::npos) {
          property["enum"].push_back(std::stoll(choice));  // as YAML has it without quotes
        }
      }
    }
    property["description"] =
        field.rules.empty() ? field.doc : fmt::format("{} ({})", field.doc, field.rules);
    schema["properties"][field.name] = std::move(property);
    if (field.required) {
      schema["required"].push_back(field.name);
    }
  }
  schema["additionalProperties"] = false;
  return schema;
}

/// Appends the ways to write a class: its name, unless it has required arguments, and its name with
/// its arguments.
void append_class(Json& ways, const ClassInfo& info) {
  Json name = {{"enum", Json::array({info.name})}, {"description", info.doc}};
  for (const auto& alias : info.aliases) {
    name["enum"].push_back(alias);
  }
  Json arguments = schema_of(info.fields);
  Json required = Json::array({"class_path"});
  if (arguments.contains("required")) {
    required.push_back("init_args");
  } else {
    arguments["type"] = Json::array({"object", "null"});
    ways.push_back(name);
  }
  ways.push_back({{"type", "object"},
                  {"properties", {{"class_path", name}, {"init_args", arguments}}},
                  {"required", required},
                  {"additionalProperties", false}});
}

}  // namespace

int print_schema(const Arguments& arguments) {
  load_plugins(arguments.config);
  load_available_plugins();
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}};
  schema.update(schema_of(config::describe<RunConfig>()));
  for (const std::string kind : kKinds) {
    Json ways = Json::array();
    for (const auto& info : registry::list(kind)) {
      append_class(ways, *info);
    }
    schema["$defs"][kind] = ways.empty() ? Json(false) : Json{{"anyOf", ways}};
  }
  console::print(schema.dump(2) + "\n");
  return static_cast<int>(ExitCode::kOk);
}

}  // namespace trainer
