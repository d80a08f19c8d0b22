#include <trainer/checkpoint/checkpoint.h>

#include <unistd.h>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/hash.h>

namespace trainer {
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr int kSchema = 1;
constexpr uint64_t kMaxManifestBytes = uint64_t{16} << 20;

constexpr const char* kUseAnother =
    "Resume from another checkpoint of this run, or pass --ckpt_path=last to choose the newest "
    "complete one.";

nlohmann::json parse(const fs::Path& path, const std::string& text) {
  auto parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object()) {
    throw CheckpointError(
        fmt::format("{}: is not a JSON object: damaged.\n  {}", path.string(), kUseAnother));
  }
  return parsed;
}

bool is_well_formed(const nlohmann::json& manifest) {
  const auto about = manifest.find("about");
  const auto files = manifest.find("files");
  if (about == manifest.end() || !about->is_object() || files == manifest.end() ||
      !files->is_object()) {
    return false;
  }
  for (const auto& file : *files) {
    if (!file.is_object() || !file.value("bytes", nlohmann::json()).is_number_unsigned() ||
        !file.value("xxh3_128", nlohmann::json()).is_string()) {
      return false;
    }
  }
  return (!about->contains("module") || about->at("module").is_string()) &&
         (!about->contains("global_step") || about->at("global_step").is_number_integer());
}

nlohmann::json read_manifest(const fs::Path& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    if (error && error != std::errc::no_such_file_or_directory) {
      throw DataError(fmt::format("{}: cannot read this checkpoint: {}.\n  Check the permissions.",
                                  path.string(), error.message()));
    }
    throw DataError(fmt::format(
        "{}: there is no such checkpoint folder.\n  Check the path; --ckpt_path=last or best, in "
        "code RunDirectory, finds one by itself.",
        path.string()));
  }
  if (std::filesystem::is_directory(path / "checkpoints", error)) {
    throw DataError(fmt::format(
        "{0}: is a run, not a checkpoint.\n  Write --ckpt_path=last --run {0}, or name one of the "
        "folders in {0}/checkpoints.",
        path.string()));
  }
  const fs::Path manifest = path / kManifest;
  if (!std::filesystem::exists(manifest, error) && !error) {
    throw CheckpointError(
        fmt::format("{}: has no {}: incomplete, or no checkpoint of trainer.\n  {}", path.string(),
                    kManifest, kUseAnother));
  }
  auto content = parse(manifest, fs::read_text(manifest, kMaxManifestBytes));
  if (content.value("schema", nlohmann::json()) != kSchema) {
    throw CheckpointError(fmt::format(
        "{}: has schema {}, this trainer reads schema {}.\n  Use the version of trainer "
        "that wrote it.",
        manifest.string(), content.value("schema", nlohmann::json()).dump(), kSchema));
  }
  if (!is_well_formed(content)) {
    throw CheckpointError(
        fmt::format("{}: does not list files with sizes and hashes: damaged.\n  {}",
                    manifest.string(), kUseAnother));
  }
  return content;
}

void check_file(const fs::Path& checkpoint, const std::string& name,
                const nlohmann::json& expected) {
  const fs::Path path = checkpoint / name;
  std::error_code error;
  const uint64_t size =
      name.find('/') == std::string::npos ? std::filesystem::file_size(path, error) : 0;
  if (error || name.find('/') != std::string::npos) {
    throw CheckpointError(
        fmt::format("{}: {} is missing.\n  {}", checkpoint.string(), name, kUseAnother));
  }
  const uint64_t expected_size = expected.at("bytes").get<uint64_t>();
  if (size != expected_size) {
    throw CheckpointError(fmt::format("{}: {} is {} bytes, its manifest says {}: damaged.\n  {}",
                                      checkpoint.string(), name, size, expected_size, kUseAnother));
  }
  if (hash::xxh3_128_of_file(path) != expected.at("xxh3_128").get<std::string>()) {
    throw CheckpointError(
        fmt::format("{}: {} does not have the content that its manifest says (XXH3-128): damaged.\n"
                    "  {}",
                    checkpoint.string(), name, kUseAnother));
  }
}

}  // namespace

std::string whole_file(const std::string& what) {
  // Whoever wants a model looks for this name; an optimizer's file was never without a rank.
  return what == "model" ? "model.safetensors" : part_file(what, 0);
}

std::string part_file(const std::string& what, int rank) {
  return fmt::format("{}-rank{:05}.safetensors", what, rank);
}

CheckpointWriter::CheckpointWriter(const fs::Path& path)
    : CheckpointPart(fmt::format("{}.tmp-{}", path.string(), ::getpid())), path_(path) {
  std::error_code ignored;  // what a killed run left; create_directories() reports what matters
  std::filesystem::remove_all(folder(), ignored);
  fs::create_directories(folder());
}

CheckpointWriter::~CheckpointWriter() {
  if (!committed_) {
    std::error_code ignored;  // a temporary folder that stays is no checkpoint
    std::filesystem::remove_all(folder(), ignored);
  }
}

void CheckpointPart::add_text(const std::string& name, std::string_view text) {
  fs::OutputFile file(folder_ / name);
  file.write(text);
  file.sync();
  file.close();
  files_[name] = {{"bytes", text.size()},
                  {"xxh3_128", hash::xxh3_128(std::as_bytes(std::span(text)))}};
}

void CheckpointPart::add_tensors(const std::string& name, const safetensors::Tensors& tensors,
                                 const safetensors::Metadata& metadata) {
  safetensors::save(folder_ / name, tensors, metadata);
  add_written(name);
}

void CheckpointPart::add_written(const std::string& name) {
  const fs::Path path = folder_ / name;
  files_[name] = {{"bytes", std::filesystem::file_size(path)},
                  {"xxh3_128", hash::xxh3_128_of_file(path)}};
}

void CheckpointWriter::add_part(const nlohmann::json& files) { files_.update(files); }

void CheckpointWriter::commit(nlohmann::json about) {
  const nlohmann::json manifest = {
      {"schema", kSchema}, {"about", std::move(about)}, {"files", files_}};
  fs::OutputFile file(folder() / kManifest);
  file.write(manifest.dump(2) + "\n");
  file.sync();
  file.close();
  fs::sync(folder());
  std::error_code error;  // of a path that rename() reports better
  if (std::filesystem::exists(path_, error)) {
    fs::replace_directory(folder(), path_);
  } else {
    fs::rename(folder(), path_);
  }
  committed_ = true;
}

CheckpointReader::CheckpointReader(const fs::Path& path) : path_(path) {
  auto manifest = read_manifest(path);
  files_ = std::move(manifest["files"]);
  about_ = std::move(manifest["about"]);
  for (const auto& [name, expected] : files_.items()) {
    check_file(path_, name, expected);
  }
}

fs::Path CheckpointReader::file(const std::string& name) const {
  if (!files_.contains(name)) {
    throw CheckpointError(fmt::format("{}: has no {}.\n  {}", path_.string(), name, kUseAnother));
  }
  return path_ / name;
}

std::string CheckpointReader::text(const std::string& name) const {
  return fs::read_text(file(name));
}

nlohmann::json CheckpointReader::json(const std::string& name) const {
  return parse(file(name), text(name));
}

safetensors::File CheckpointReader::tensors(const std::string& name) const {
  return safetensors::File(file(name));
}

SavedTensors CheckpointReader::saved(const std::string& what) const {
  std::vector<safetensors::File> parts;
  for (const auto& [name, _] : files_.items()) {
    if (name == whole_file(what) || name.starts_with(what + "-rank")) {
      parts.push_back(tensors(name));
    }
  }
  if (parts.empty()) {
    throw CheckpointError(
        fmt::format("{}: has no {}.\n  {}", path_.string(), whole_file(what), kUseAnother));
  }
  return SavedTensors(std::move(parts));
}

nlohmann::json CheckpointReader::read_about(const fs::Path& path) {
  return read_manifest(path)["about"];
}

SavedTensors open_weights(const fs::Path& path) {
  std::error_code error;  // of a path that whoever opens it reports better
  if (!std::filesystem::is_directory(path, error)) {
    return safetensors::File(path);
  }
  if (std::filesystem::exists(path / kManifest, error)) {
    return CheckpointReader(path).saved("model");
  }
  return safetensors::File(path / whole_file("model"));
}

}  // namespace trainer
