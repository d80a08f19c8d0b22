#include <strategies/comm/orphan.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <trainer/core/error.h>

namespace trainer {

void end_orphan() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // Those of Open MPI's transport alone, as it names them: ours have no name.
    if (line.find("/vader_segment.") != std::string::npos) {
      std::error_code ignored;  // another rank was faster
      std::filesystem::remove(line.substr(line.find('/')), ignored);
    }
  }
  ::_exit(static_cast<int>(ExitCode::kTryAgain));
}

}  // namespace trainer
