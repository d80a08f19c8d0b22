#include <strategies/comm/orphan.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <trainer/core/error.h>

namespace trainer {

void end_orphan() {
  std::ifstream maps("/proc/self/maps");
  const std::string folder = "/dev/shm/";
  for (std::string line; std::getline(maps, line);) {
    // Those of Open MPI's transport alone, as it names them: ours have no name.
    const size_t at = line.find(folder);
    if (at != std::string::npos && line.compare(at + folder.size(), 6, "vader_") == 0) {
      std::error_code ignored;  // another rank was faster
      std::filesystem::remove(line.substr(at), ignored);
    }
  }
  ::_exit(static_cast<int>(ExitCode::kTryAgain));
}

}  // namespace trainer
