#pragma once
// Classes by name. YAML names a class (`class_path: EarlyStopping`) and gives its arguments
// (`init_args`); a Spec is that pair as a value that can be printed, stored in config.yaml, and
// turned into an object.
//
// A class is registered for its kind, which its base names: `using Base = Callback;` and
// `static constexpr const char* kKind = "callback";`. Its constructor takes a nested struct `Init`
// with fields(), or nothing. Built-in classes are registered in builtins.cpp; yours by
// TRAINER_REGISTER_CLASS in your program or plug-in. Two classes of a kind cannot share a name.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include <trainer/core/config.h>
#include <trainer/version.h>

namespace trainer {

/// What is known about a registered class.
struct ClassInfo {
  std::string name;
  const std::type_info* type = nullptr;
  std::string doc = {};                   // T::kDoc where the class has one
  std::vector<std::string> aliases = {};  // short names that YAML may use, as "ddp" for "DDP"
  std::string origin = "";                // "built in", "this program", or the plug-in; see add()
  std::vector<config::FieldInfo> fields = {};
  /// Checks `init_args` and completes them with the defaults.
  std::function<config::Node(const config::Node& init_args, const std::string& path,
                             config::Diagnostics&)>
      resolve = {};
  /// Makes the object from resolved arguments; the pointer is to the kind's base.
  std::function<std::shared_ptr<void>(const config::Node& init_args)> create = {};
};

namespace registry {

/// Adds a class, or describes the same class anew. Throws UsageError when the kind has another
/// class of that name; while a Load lives, its commit() tells that instead.
bool add(std::string_view kind, ClassInfo info);

/// Calls `registration`, which calls add(), from a static initialiser, where nothing may throw: the
/// clash of a name is told by the next Load::commit(). While a Load lives, the call too waits for
/// that, so that a plug-in of another version has no code run before its version is known.
bool add_at_start(bool (*registration)()) noexcept;

/// The class with this name or alias, or nullptr.
std::shared_ptr<const ClassInfo> find(std::string_view kind, std::string_view name);

/// All classes of a kind by name.
std::vector<std::shared_ptr<const ClassInfo>> list(std::string_view kind);

/// "unknown callback 'X'. Did you mean 'Y'?" with what to do next.
std::string unknown_class(std::string_view kind, std::string_view name);

/// Gathers what this thread registers while the object lives, all of it from one origin, and adds
/// all of it or nothing.
class Load {
 public:
  /// `origin` as in "built in" or "plug-in digits".
  explicit Load(std::string origin);
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  /// Forgets what was not committed.
  ~Load();

  /// Adds the classes. Throws ConfigError, and adds none, when a name clashes among them, with a
  /// class that is known, or within this program.
  void commit();

 private:
  friend bool add(std::string_view kind, ClassInfo info);
  friend bool add_at_start(bool (*registration)()) noexcept;

  std::string origin_;
  std::vector<bool (*)()> pending_;
  std::vector<std::pair<std::string, ClassInfo>> classes_;  // with their kinds
};

}  // namespace registry

/// Describes T for the registry, and for a Spec that is made in code.
template <class T>
ClassInfo class_info(std::string name = std::string(config::type_name<T>())) {
  using Base = typename T::Base;
  ClassInfo info;
  info.name = std::move(name);
  info.type = &typeid(T);
  if constexpr (requires { T::kDoc; }) {
    info.doc = T::kDoc;
  }
  if constexpr (requires { typename T::Init; }) {
    using Init = typename T::Init;
    info.fields = config::describe<Init>();
    info.resolve = [](const config::Node& args, const std::string& path,
                      config::Diagnostics& diagnostics) {
      return config::write(config::read<Init>(args, path, diagnostics));
    };
    info.create = [](const config::Node& args) -> std::shared_ptr<void> {
      config::Diagnostics diagnostics;
      auto init = config::read<Init>(args, "init_args", diagnostics);
      diagnostics.throw_if_any();
      return std::shared_ptr<Base>(std::make_shared<T>(std::move(init)));
    };
  } else {
    info.resolve = [](const config::Node& args, const std::string& path,
                      config::Diagnostics& diagnostics) {
      config::detail::check_keys(args, path, {}, diagnostics);
      return config::Node::map();
    };
    info.create = [](const config::Node&) -> std::shared_ptr<void> {
      return std::shared_ptr<Base>(std::make_shared<T>());
    };
  }
  return info;
}

/// Registers T under its own name and, if given, short names.
template <class T>
bool register_class(std::vector<std::string> aliases = {}) {
  ClassInfo info = class_info<T>();
  info.aliases = std::move(aliases);
  return registry::add(T::Base::kKind, std::move(info));
}

namespace detail {
/// Reads a Spec's node: a name, or {class_path, init_args}. Completes init_args.
void read_spec(std::string_view kind, const config::Node& node, const std::string& path,
               config::Diagnostics& diagnostics, std::string& class_path, config::Node& init_args);
config::Node write_spec(const std::string& class_path, const config::Node& init_args);
std::shared_ptr<const ClassInfo> find_class(std::string_view kind, const std::string& name);
}  // namespace detail

/// A class and its arguments, as a value.
template <class Base>
struct Spec {
  std::string class_path;
  config::Node init_args = config::Node::map();

  Spec() = default;
  Spec(const char* name)
      : class_path(name) {}  // NOLINT: `.strategy = "ddp"` is how it is meant to be written
  Spec(std::string name, config::Node args)
      : class_path(std::move(name)), init_args(std::move(args)) {}

  /// Makes the object. Throws ConfigError for an unknown class or bad arguments.
  std::shared_ptr<Base> create() const {
    const auto found = detail::find_class(Base::kKind, class_path);
    config::Diagnostics diagnostics;
    const auto resolved = found->resolve(init_args, found->name, diagnostics);
    diagnostics.throw_if_any();
    return std::static_pointer_cast<Base>(found->create(resolved));
  }
};

namespace detail {
template <class T, class = void>
struct InitOf {
  struct Type {};
};
template <class T>
struct InitOf<T, std::void_t<typename T::Init>> {
  using Type = typename T::Init;
};
}  // namespace detail

/// A Spec of T made in code; registers T where it is not yet. Throws UsageError when another class
/// has its name. `use<EarlyStopping>({.monitor = "val_loss"})`.
template <class T>
Spec<typename T::Base> use(typename detail::InitOf<T>::Type init = {}) {
  Spec<typename T::Base> spec;
  spec.class_path = config::type_name<T>();
  const auto known = registry::find(T::Base::kKind, spec.class_path);
  if (known == nullptr || known->name != spec.class_path || known->type != &typeid(T)) {
    register_class<T>();  // throws where another class has the name
  }
  if constexpr (requires { typename T::Init; }) {
    spec.init_args = config::write(init);
  }
  return spec;
}

namespace config {

template <class Base>
struct Codec<Spec<Base>> {
  static std::string type() { return std::string(Base::kKind); }
  static void read(const Node& n, const std::string& path, Diagnostics& d, Spec<Base>& out) {
    trainer::detail::read_spec(Base::kKind, n, path, d, out.class_path, out.init_args);
  }
  static Node write(const Spec<Base>& value) {
    return trainer::detail::write_spec(value.class_path, value.init_args);
  }
};

}  // namespace config
}  // namespace trainer

/// The version of trainer that a plug-in was built for; every library that registers classes
/// carries its own.
extern "C" [[gnu::used, gnu::visibility("default")]] inline const char* trainer_plugin_version() {
  return trainer::kVersion;
}

#define TRAINER_DETAIL_CONCAT2(a, b) a##b
#define TRAINER_DETAIL_CONCAT(a, b) TRAINER_DETAIL_CONCAT2(a, b)

/// Registers a class of your program or plug-in for its kind; stands in a .cpp file, outside any
/// function.
#define TRAINER_REGISTER_CLASS(T)                                                   \
  [[maybe_unused]] static const bool TRAINER_DETAIL_CONCAT(registered_, __LINE__) = \
      ::trainer::registry::add_at_start([] { return ::trainer::register_class<T>(); })
#define TRAINER_REGISTER_MODULE(T) TRAINER_REGISTER_CLASS(T)
#define TRAINER_REGISTER_DATA_MODULE(T) TRAINER_REGISTER_CLASS(T)
#define TRAINER_REGISTER_CALLBACK(T) TRAINER_REGISTER_CLASS(T)
#define TRAINER_REGISTER_LOGGER(T) TRAINER_REGISTER_CLASS(T)
