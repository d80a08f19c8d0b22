#include <trainer/provenance.h>

#include <elf.h>
#include <link.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/version.h>
#include <zlib.h>

#include <trainer/core/host.h>
#include <trainer/core/seed.h>
#include <trainer/version.h>
#include <trainer/world.h>

namespace trainer {
namespace {

/// The GNU build id of the shared object (or program) that this function is linked into.
std::string build_id() {
  struct Search {
    uintptr_t address;
    std::string id;
  } search{reinterpret_cast<uintptr_t>(&build_id), ""};
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& wanted = *static_cast<Search*>(data);
        std::string id;
        bool is_ours = false;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
          is_ours |= header.p_type == PT_LOAD && wanted.address >= begin &&
                     wanted.address < begin + header.p_memsz;
          if (header.p_type != PT_NOTE) {
            continue;
          }
          for (uintptr_t at = begin; at + sizeof(ElfW(Nhdr)) <= begin + header.p_memsz;) {
            const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(at);
            const uintptr_t name = at + sizeof(*note);
            const uintptr_t content = name + ((note->n_namesz + 3U) & ~3U);
            if (note->n_type == NT_GNU_BUILD_ID) {
              const auto* bytes = reinterpret_cast<const uint8_t*>(content);
              id = fmt::format("{:02x}", fmt::join(bytes, bytes + note->n_descsz, ""));
            }
            at = content + ((note->n_descsz + 3U) & ~3U);
          }
        }
        if (is_ours) {
          wanted.id = id;
        }
        return is_ours ? 1 : 0;
      },
      &search);
  return search.id;
}

/// What a command printed, or nothing when it failed.
std::string output_of(const char* command) {
  std::FILE* pipe = ::popen(command, "r");
  if (pipe == nullptr) {
    return "";
  }
  std::string text;
  std::array<char, 4096> buffer{};
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    text.append(buffer.data(), n);
  }
  return ::pclose(pipe) == 0 ? text : "";
}

nlohmann::json git_state() {
  // One process start: the commit on the first line, then one line for each changed file.
  const std::string text = output_of(
      "git rev-parse HEAD 2>/dev/null && git --no-optional-locks status --porcelain 2>/dev/null");
  const size_t end = text.find('\n');
  if (end == std::string::npos) {
    return nullptr;
  }
  return {{"commit", text.substr(0, end)}, {"dirty", text.size() > end + 1}};
}

std::vector<std::string> command_line() {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  std::vector<std::string> words;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/self/cmdline", "r"),
                                                       &std::fclose);
  std::string text(kMaxBytes, '\0');
  text.resize(file ? std::fread(text.data(), 1, text.size(), file.get()) : 0);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\0', begin);
    words.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return words;
}

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

}  // namespace

nlohmann::json provenance(uint64_t seed) {
  return {
      {"started", utc_now()},
      {"command_line", command_line()},
      {"host", host_name()},
      {"processes", world().size()},
      {"seed", seed},
      {"git", git_state()},
      {"build_id", build_id()},
      {"libraries",
       {{"trainer", kVersion},
        {"libtorch", TORCH_VERSION},
        {"yaml-cpp", TRAINER_YAML_CPP_VERSION},
        {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                      NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
        {"fmt", TRAINER_FMT_VERSION},
        {"spdlog", TRAINER_SPDLOG_VERSION},
        {"zlib", ::zlibVersion()},
        {"compiler", __VERSION__}}}};
}

void write_provenance(const fs::Path& run_dir, const DataModule& data) {
  const fs::Path path = run_dir / "provenance.json";
  auto starts = nlohmann::json::array();
  if (std::filesystem::exists(path)) {
    auto earlier = nlohmann::json::parse(fs::read_text(path), nullptr, /*allow_exceptions=*/false);
    if (earlier.is_array()) {
      starts = std::move(earlier);
    }
  }
  auto start = provenance(global_seed());
  start["data"] = data.checksums();
  starts.push_back(std::move(start));
  fs::write_text_atomically(path, starts.dump(2) + "\n");
}

}  // namespace trainer
