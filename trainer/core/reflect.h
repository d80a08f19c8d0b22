#pragma once
// One declaration per configuration struct. A plain aggregate lists its members in fields(); the
// names come from the member pointers at compile time, and from this one list follow YAML loading,
// overrides, --help, the JSON schema, the saved config.yaml and the texts of errors:
//
//   struct Init {
//     int64_t hidden = 128;
//     static constexpr auto fields() {
//       return std::tuple{config::field<&Init::hidden>("Width of the hidden layer.",
//       config::at_least(1))};
//     }
//   };
//
// Every member needs an initialiser; a member that is missing from fields() fails the build.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <variant>

namespace trainer::config {

namespace detail {

template <auto P>
constexpr std::string_view member_name() {
  std::string_view text = __PRETTY_FUNCTION__;
  text = text.substr(text.find("P = &") + 5);
  text = text.substr(0, text.find_first_of(";]"));
  return text.substr(text.rfind(':') + 1);
}

template <class T>
constexpr std::string_view qualified_type_name() {
  std::string_view text = __PRETTY_FUNCTION__;
  text = text.substr(text.find("T = ") + 4);
  return text.substr(0, text.find_first_of(";]"));
}

template <class T>
struct MemberOf;
template <class S, class M>
struct MemberOf<M S::*> {
  using Type = M;
};

struct Any {
  template <class T>
  operator T() const;  // NOLINT: only ever named in unevaluated code
};

template <class T, class... A>
constexpr size_t arity() {
  if constexpr (requires { T{A{}..., Any{}}; }) {
    return arity<T, A..., Any>();
  } else {
    return sizeof...(A);
  }
}

std::string to_text(double value);
std::string to_text(int64_t value);
std::string to_text(const std::string& value);
inline std::string to_text(const char* value) { return to_text(std::string(value)); }
inline std::string to_text(int value) { return to_text(static_cast<int64_t>(value)); }

}  // namespace detail

/// The type's name without namespaces: the default `class_path` of a class.
template <class T>
constexpr std::string_view type_name() {
  const auto name = detail::qualified_type_name<T>();
  const size_t colon = name.rfind(':');
  return colon == std::string_view::npos ? name : name.substr(colon + 1);
}

// Rules: text() is shown in --help; violation() says what is wrong with a value, or nothing.

template <class V>
struct AtLeast {
  V min;
  std::string text() const { return ">= " + detail::to_text(min); }
  template <class T>
  std::string violation(const T& value) const {
    return value >= static_cast<T>(min) ? "" : "must be at least " + detail::to_text(min) + ".";
  }
};

template <class V>
struct GreaterThan {
  V bound;
  std::string text() const { return "> " + detail::to_text(bound); }
  template <class T>
  std::string violation(const T& value) const {
    return value > static_cast<T>(bound) ? ""
                                         : "must be greater than " + detail::to_text(bound) + ".";
  }
};

template <class V>
struct InRange {
  V min, max;
  std::string text() const { return detail::to_text(min) + " to " + detail::to_text(max); }
  template <class T>
  std::string violation(const T& value) const {
    return value >= static_cast<T>(min) && value <= static_cast<T>(max)
               ? ""
               : "must lie between " + detail::to_text(min) + " and " + detail::to_text(max) + ".";
  }
};

template <size_t N>
struct OneOf {
  std::array<const char*, N> choices;
  std::string text() const {
    std::string all;
    for (const char* choice : choices) {
      all += (all.empty() ? "" : ", ") + std::string(choice);
    }
    return "one of: " + all;
  }
  std::string violation(const std::string& value) const {
    for (const char* choice : choices) {
      if (value == choice) {
        return "";
      }
    }
    return "choose " + text() + ".";
  }
};

/// The key must be given: no default makes sense.
struct Required {
  std::string text() const { return "required"; }
  template <class T>
  std::string violation(const T&) const {
    return "";
  }
};

template <class V>
constexpr AtLeast<V> at_least(V min) {
  return {min};
}
template <class V>
constexpr GreaterThan<V> greater_than(V bound) {
  return {bound};
}
template <class V>
constexpr InRange<V> in_range(V min, V max) {
  return {min, max};
}
template <class... S>
constexpr OneOf<sizeof...(S)> one_of(S... choices) {
  return {{choices...}};
}
constexpr Required required() { return {}; }

/// One member of a configuration struct: its name, what it means, and the rules its value keeps.
template <auto P, class... Rules>
struct Field {
  static constexpr auto kMember = P;
  static constexpr std::string_view kName = detail::member_name<P>();
  static constexpr bool kRequired = (std::is_same_v<Rules, Required> || ...);
  using Type = typename detail::MemberOf<std::remove_const_t<decltype(P)>>::Type;
  std::string_view doc;
  std::tuple<Rules...> rules;
};

template <auto P, class... Rules>
constexpr Field<P, Rules...> field(std::string_view doc, Rules... rules) {
  return {doc, {rules...}};
}

/// A struct with fields().
template <class T>
concept Struct = requires {
  T::fields();
};

/// Calls `f` with every Field of T in order.
template <Struct T, class F>
void for_each_field(F&& f) {
  static_assert(std::tuple_size_v<decltype(T::fields())> == detail::arity<T>(),
                "a member of this struct is missing from fields()");
  std::apply([&](const auto&... x) { (f(x), ...); }, T::fields());
}

}  // namespace trainer::config
