#include <trainer/world.h>

namespace trainer {
namespace {

std::function<std::unique_ptr<World>()>& factory_of_world() {
  static std::function<std::unique_ptr<World>()> factory = [] { return std::make_unique<World>(); };
  return factory;
}

}  // namespace

World& world() {
  static const std::unique_ptr<World> instance = factory_of_world()();
  return *instance;
}

void set_world_factory(std::function<std::unique_ptr<World>()> factory) {
  factory_of_world() = std::move(factory);
}

}  // namespace trainer
