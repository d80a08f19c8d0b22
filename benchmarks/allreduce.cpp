// What Communicator::all_reduce takes beside MPI_Allreduce, both in turn in the same processes.
//
//   mpirun -n 2 allreduce
//
// Rank 0 prints for each size the time of both, then added_us (the most that ours takes longer
// below 16 KB), speed_16k_to_1m and speed_26m (theirs by ours, of the worst size and of 26 MB):
// medians over rounds.

#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include <strategies/comm/communicator.h>
#include <torch/torch.h>
#include <trainer/builtins.h>
#include <trainer/world.h>

#include "mlp.h"

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <class F>
double us_per_call(int calls, const F& call) {
  trainer::world().barrier();
  const double begin = benchmark::seconds(CLOCK_MONOTONIC);
  for (int i = 0; i < calls; ++i) {
    call();
  }
  return 1e6 * (benchmark::seconds(CLOCK_MONOTONIC) - begin) / calls;
}

}  // namespace

int main() {
  torch::set_num_threads(1);
  trainer::register_builtins();
  const auto comm = trainer::world_communicator(torch::kCPU);
  const bool tells = trainer::world().is_global_zero();
  double added_us = -1e9, speed_middle = 1e9, speed_large = 0;
  for (const int64_t bytes : {8, 64, 1024, 4096, 8192, 16384, 65536, 262144, 1048576, 26214400}) {
    const auto tensor = torch::zeros({bytes / 4});
    const int calls = bytes < 16384 ? 4000 : bytes <= 1048576 ? 300 : 10;
    std::vector<double> ours, theirs, differences, ratios;
    for (int round = 0; round < 15; ++round) {
      ours.push_back(us_per_call(calls, [&] { comm->all_reduce(tensor); }));
      theirs.push_back(us_per_call(calls, [&] {
        MPI_Allreduce(MPI_IN_PLACE, tensor.data_ptr(), static_cast<int>(bytes / 4), MPI_FLOAT,
                      MPI_SUM, MPI_COMM_WORLD);
      }));
      differences.push_back(ours.back() - theirs.back());
      ratios.push_back(theirs.back() / ours.back());
    }
    if (tells) {
      std::printf("%8ld B: ours %.2f us, MPI_Allreduce %.2f us, speed %.3f\n",
                  static_cast<long>(bytes), median(ours), median(theirs), median(ratios));
    }
    if (bytes < 16384) {
      added_us = std::max(added_us, median(differences));
    } else if (bytes <= 1048576) {
      speed_middle = std::min(speed_middle, median(ratios));
    } else {
      speed_large = median(ratios);
    }
  }
  if (tells) {
    benchmark::print("added_us", added_us);
    benchmark::print("speed_16k_to_1m", speed_middle);
    benchmark::print("speed_26m", speed_large);
  }
}
