#include <trainer/core/type_name.h>

#include <c10/util/Type.h>

namespace trainer {

std::string type_name(const std::type_info& type) {
  const std::string name = c10::demangle(type.name());
  const size_t colon = name.rfind(':', name.find('<'));  // not one in a template's argument
  return colon == std::string::npos ? name : name.substr(colon + 1);
}

}  // namespace trainer
