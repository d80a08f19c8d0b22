#include <trainer/world.h>

#include <chrono>

#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>
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
  // Never destroyed: the end of the program asks it for its rank.
  static World& instance = *join().release();
  return instance;
}

World* joined_world() { return joined; }

Failure failure_here(std::string message, int exit_code) {
  using std::chrono::system_clock;
  const auto since_1970 = system_clock::now().time_since_epoch();
  return {.message = std::move(message),
          .exit_code = exit_code,
          .rank = joined != nullptr ? joined->rank() : 0,
          .world_size = joined != nullptr ? joined->size() : 1,
          .host = host_name(),
          .step = flight::status().step,
          .timestamp_s = std::chrono::duration_cast<std::chrono::seconds>(since_1970).count()};
}

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
