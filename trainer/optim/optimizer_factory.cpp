#include <trainer/optim/optimizer_factory.h>

#include <regex>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer::optim {
namespace {

struct NamedParameter {
  std::string name;
  torch::Tensor tensor;
};

std::vector<NamedParameter> trainable(const torch::nn::Module& module) {
  std::vector<NamedParameter> result;
  std::set<const void*> seen;
  for (const auto& item : module.named_parameters(/*recurse=*/true)) {
    if (item.value().requires_grad() && seen.insert(item.value().unsafeGetTensorImpl()).second) {
      result.push_back({item.key(), item.value()});
    }
  }
  if (result.empty()) {
    throw UsageError(
        fmt::format("{}: no parameter requires a gradient, so an optimizer has nothing to do.\n"
                    "  Register the layers in the constructor, and freeze fewer of them.",
                    module.name()));
  }
  return result;
}

/// "fc1.weight, fc1.bias, ... (8 in all)".
std::string some_names(const std::vector<NamedParameter>& parameters) {
  constexpr size_t kShown = 6;
  std::string names;
  for (size_t i = 0; i < parameters.size() && i < kShown; ++i) {
    names += (i == 0 ? "" : ", ") + parameters[i].name;
  }
  return parameters.size() <= kShown ? names
                                     : fmt::format("{}, ... ({} in all)", names, parameters.size());
}

/// A pattern of the configuration, with its key for messages.
class Matcher {
 public:
  Matcher(std::string key, const std::string& pattern, const std::vector<NamedParameter>& all)
      : key_(std::move(key)), pattern_(pattern) {
    if (const std::string wrong = Pattern{}.violation(pattern); !wrong.empty()) {
      throw ConfigError(fmt::format("{}: is '{}': {}", key_, pattern, wrong));
    }
    const std::regex regex(pattern);
    for (const NamedParameter& parameter : all) {
      if (std::regex_match(parameter.name, regex)) {
        matched_.insert(parameter.name);
      }
    }
    if (matched_.empty()) {
      throw ConfigError(
          fmt::format("{}: '{}' matches no parameter that requires a gradient.\n"
                      "  A pattern matches whole names. They are {}.",
                      key_, pattern, some_names(all)));
    }
  }

  bool matches(const std::string& name) const { return matched_.contains(name); }

  [[noreturn]] void throw_shadowed() const {
    throw ConfigError(
        fmt::format("{}: every parameter that '{}' matches belongs to a group before it.\n"
                    "  The first group that matches holds: put the narrower pattern first.",
                    key_, pattern_));
  }

 private:
  std::string key_;
  std::string pattern_;
  std::set<std::string> matched_;
};

}  // namespace

std::string Pattern::violation(const std::string& pattern) const {
  try {
    const std::regex regex(pattern);
    return "";
  } catch (const std::regex_error& error) {
    return fmt::format("must be a regular expression ({}).", error.what());
  }
}

namespace detail {

std::vector<ParameterGroup> split_parameters(const torch::nn::Module& module,
                                             const GroupRules& rules) {
  const auto all = trainable(module);
  std::optional<Matcher> no_decay;
  if (!rules.no_decay.empty()) {
    no_decay.emplace("no_decay", rules.no_decay, all);
  }
  std::vector<Matcher> matchers;
  for (size_t i = 0; i < rules.groups.size(); ++i) {
    matchers.emplace_back(fmt::format("groups[{}].match", i), rules.groups[i].match, all);
  }

  // Two for each rule, and two for what none matches.
  std::vector<ParameterGroup> groups;
  for (size_t i = 0; i <= matchers.size(); ++i) {
    const GroupRule* rule = i < matchers.size() ? &rules.groups[i] : nullptr;
    groups.push_back({.rule = rule, .decays = false, .parameters = {}});
    groups.push_back({.rule = rule, .decays = true, .parameters = {}});
  }
  for (const NamedParameter& parameter : all) {
    size_t i = 0;
    while (i < matchers.size() && !matchers[i].matches(parameter.name)) {
      ++i;
    }
    const bool decays = !no_decay || !no_decay->matches(parameter.name);
    groups[2 * i + (decays ? 1 : 0)].parameters.push_back(parameter.tensor);
  }
  for (size_t i = 0; i < matchers.size(); ++i) {
    if (groups[2 * i].parameters.empty() && groups[2 * i + 1].parameters.empty()) {
      matchers[i].throw_shadowed();
    }
  }
  std::erase_if(groups, [](const ParameterGroup& group) { return group.parameters.empty(); });
  return groups;
}

}  // namespace detail
}  // namespace trainer::optim
