// A program with a use for MPI of its own, as a simulation, that trains in between. Its arguments
// say what it does: whether it starts and ends MPI itself (own) or leaves that to us (ours), and
// how it ends (well; failed: the last rank has failed in what the others wait for and goes on;
// returns: it returns 4 from main meanwhile; throws).

#include <iostream>
#include <stdexcept>
#include <string>

#include <mpi.h>

#include <tests/support/toy.h>
#include <trainer/builtins.h>
#include <trainer/world.h>

int main(int argc, char** argv) {
  const std::string start = argc > 1 ? argv[1] : "", end = argc > 2 ? argv[2] : "";
  if (start == "own") {
    MPI_Init(&argc, &argv);
  }
  trainer::register_builtins();
  trainer::World& world = trainer::world();
  const bool is_last = world.rank() == world.size() - 1;
  if (end == "well") {
    trainer::test::ToyModule module;
    trainer::test::ToyData data;
    trainer::Trainer trainer({.max_epochs = 1,
                              .logger = {},
                              .enable_checkpointing = false,
                              .enable_progress_bar = false,
                              .enable_model_summary = false});
    trainer.fit(module, data);
    trainer.validate(module, data);
    if (world.is_global_zero()) {
      std::cout << world.launcher() << ": rank " << world.rank() << " of " << world.size() << "\n";
    }
  } else if (!is_last) {
    world.barrier();
  } else if (end == "failed") {
    std::cerr << "last words\n";
    world.mark_failed({.message = "last words", .exit_code = 3});
  } else if (end == "returns") {
    std::cerr << "last words\n";
    return 4;
  } else {
    throw std::runtime_error("last words");
  }
  if (start == "own") {
    MPI_Finalize();
  }
}
