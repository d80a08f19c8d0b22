#include <strategies/comm/end_process.h>

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace trainer {

void deliver_last_words() {
  constexpr unsigned kAlarmSeconds = 5;
  ::signal(SIGALRM, SIG_DFL);
  ::alarm(kAlarmSeconds);
  std::fflush(nullptr);
  // srun drops the words of a process that it ends.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

void end_without_mpi(int exit_code) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // Those of Open MPI's transport alone, as it names them: ours have no name.
    if (line.find("/vader_segment.") != std::string::npos) {
      std::error_code ignored;  // another rank was faster
      std::filesystem::remove(line.substr(line.find('/')), ignored);
    }
  }
  ::_exit(exit_code);
}

}  // namespace trainer
