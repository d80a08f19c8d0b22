#pragma once
// What messages, checkpoints and tables call the class of an object.

#include <string>
#include <typeinfo>

namespace trainer {

/// The class without its namespaces: "Linear" for torch::nn::Linear. Template arguments stay as
/// they are. `type_name(typeid(object))`.
std::string type_name(const std::type_info& type);

}  // namespace trainer
