#include <trainer/world.h>

#include <chrono>

#include <trainer/core/error.h>
#include <trainer/core/log.h>

namespace trainer {
namespace {

std::function<std::unique_ptr<World>()>& factory_of_world() {
  static std::function<std::unique_ptr<World>()> factory = [] { return std::make_unique<World>(); };
  return factory;
}

std::function<void(int64_t)>& launcher_of_processes() {
  static std::function<void(int64_t)> launcher;
  return launcher;
}

World* joined = nullptr;

std::unique_ptr<World> join() {
  auto world = factory_of_world()();
  joined = world.get();
  if (world->size() > 1) {
    // mpirun takes two seconds to end processes of other nodes.
    const auto error_delay = std::chrono::milliseconds(world->num_nodes() == 1 ? 500 : 3000);
    log::set_rank(world->rank(), world->size(), error_delay);
    log::info(world->description());
  }
  return world;
}

}  // namespace

World& world() {
  static const std::unique_ptr<World> instance = join();
  return *instance;
}

World* joined_world() { return joined; }

void launch(int64_t num_processes) {
  TRAINER_CHECK(launcher_of_processes(), "register_builtins() was not called");
  launcher_of_processes()(num_processes);
  throw InternalError("the launcher has returned");
}

void set_world_factory(std::function<std::unique_ptr<World>()> factory) {
  factory_of_world() = std::move(factory);
}

void set_launcher(std::function<void(int64_t)> launcher) {
  launcher_of_processes() = std::move(launcher);
}

}  // namespace trainer
