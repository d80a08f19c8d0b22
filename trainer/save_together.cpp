#include <trainer/save_together.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <span>
#include <utility>

#include <c10/util/accumulate.h>
#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/host.h>
#include <trainer/world.h>

namespace trainer {
namespace {

constexpr int64_t kPieceBytes = int64_t{8} << 20;

/// What this rank could not do, empty where it could. Ranks that have lost each other cannot tell
/// each other of it.
std::string failure_of(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& error) {
    return fmt::format("{}: {}", rank_name(world().rank(), world().size()), error.what());
  }
}

void throw_if_failed(const fs::Path& path, const std::string& failure) {
  if (!failure.empty()) {
    throw IoError(fmt::format("{}: this checkpoint is not saved. {}", path.string(), failure));
  }
}

/// What is not spread over the ranks is alike on all of them; a tensor without elements is
/// nobody's. The first rank writes both.
bool is_written(const torch::Tensor& own, const Segment* segment, bool is_first,
                bool writes_segments) {
  if (segment == nullptr || c10::multiply_integers(segment->sizes) == 0) {
    return is_first;
  }
  return writes_segments && own.numel() > 0;
}

/// What of its part a rank writes.
StatePart written_part(const StatePart& own, bool is_first, bool writes_segments) {
  StatePart part;
  for (const auto& [name, tensor] : own.tensors) {
    const auto found = own.segments.find(name);
    const Segment* segment = found != own.segments.end() ? &found->second : nullptr;
    if (is_written(tensor, segment, is_first, writes_segments)) {
      part.tensors.emplace_back(name, tensor);
      if (segment != nullptr) {
        part.segments.emplace(name, *segment);
      }
    }
  }
  return part;
}

/// The bytes of one tensor of all ranks together, a piece at a time; on rank 0 they are passed on.
void gather(const torch::Tensor& own, const Segment& segment, bool contributes, Strategy& strategy,
            const std::function<void(const torch::Tensor& bytes)>& take) {
  const auto width = static_cast<int64_t>(own.element_size());
  const int64_t size = c10::multiply_integers(segment.sizes) * width;
  const int64_t own_first = segment.first * width;
  const int64_t own_end = contributes ? own_first + segment.count * width : own_first;
  const auto own_bytes = own.detach().contiguous().view(torch::kUInt8);
  const auto buffer =
      torch::empty({std::min(size, kPieceBytes)}, own_bytes.options().device(strategy.device()));
  for (int64_t first = 0; first < size; first += kPieceBytes) {
    const int64_t end = std::min(first + kPieceBytes, size);
    // Each rank adds its bytes to zeros: the sum is the bytes of all, exactly.
    auto piece = buffer.narrow(0, 0, end - first).zero_();
    const int64_t begin = std::max(first, own_first);
    const int64_t count = std::min(end, own_end) - begin;
    if (count > 0) {
      piece.narrow(0, begin - first, count).copy_(own_bytes.narrow(0, begin - own_first, count));
    }
    strategy.all_reduce(piece, ReduceOp::kSum);
    if (strategy.is_global_zero()) {
      take(piece.cpu());
    }
  }
}

/// Actions of which none is done after one that failed.
class Attempts {
 public:
  template <class F>
  void operator()(const F& action) {
    if (error_ == nullptr) {
      try {
        action();
      } catch (const std::exception&) {
        error_ = std::current_exception();
      }
    }
  }
  void rethrow() const {
    if (error_ != nullptr) {
      std::rethrow_exception(error_);
    }
  }

 private:
  std::exception_ptr error_;
};

/// Whole tensors into the files of `folder`, on rank 0; the other ranks, which have none, send
/// their segments. They do so to the end also where rank 0 can write no more.
void write_whole(const std::vector<NamedPart>& parts, CheckpointPart* folder, Strategy& strategy,
                 const Sharding& sharding) {
  const torch::NoGradGuard no_grad;
  Attempts attempt;
  for (const auto& [name, state] : parts) {
    std::vector<safetensors::TensorForm> forms;
    std::map<std::string, torch::Tensor> tensors(state.tensors.begin(), state.tensors.end());
    for (const auto& [key, tensor] : tensors) {
      const auto segment = state.segments.find(key);
      forms.push_back(
          {key, tensor.scalar_type(),
           segment != state.segments.end() ? segment->second.sizes : tensor.sizes().vec()});
    }
    forms = safetensors::in_data_order(std::move(forms));
    const std::string file_name = whole_file(name);
    std::optional<fs::OutputFile> file;
    if (folder != nullptr) {
      attempt([&] {
        file.emplace(folder->folder() / file_name);
        safetensors::write_header(*file, forms);
      });
    }
    const auto write = [&](const torch::Tensor& data) {
      attempt([&] { file->write(data.const_data_ptr(), data.nbytes()); });
    };
    for (const auto& form : forms) {
      const auto& tensor = tensors.at(form.name);
      if (const auto segment = state.segments.find(form.name); segment != state.segments.end()) {
        gather(tensor, segment->second, sharding.writes_parts(), strategy, write);
      } else if (folder != nullptr) {
        write(tensor.detach().cpu().contiguous());
      }
    }
    if (folder != nullptr) {
      attempt([&] {
        file->sync();
        file->close();
        folder->add_written(file_name);
      });
    }
  }
  attempt.rethrow();
}

/// This rank's segments into files of its own.
void write_parts(const std::vector<NamedPart>& parts, CheckpointPart& folder,
                 const Strategy& strategy, const Sharding& sharding) {
  for (const auto& [name, state] : parts) {
    const auto part = written_part(state, strategy.is_global_zero(), sharding.writes_parts());
    if (!part.tensors.empty() || strategy.is_global_zero()) {
      folder.add_tensors(part_file(name, strategy.rank()), part.tensors,
                         metadata_of(part.segments));
    }
  }
}

/// Where rank 0 has made the folder, another rank may look at another disk.
fs::Path visible(const fs::Path& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    throw IoError(fmt::format(
        "{}: rank 0 has made this folder, this rank does not see it. Each rank writes its part: "
        "put "
        "runs on a disk that every node sees (trainer.default_root_dir), or have rank 0 write all "
        "of it (strategy: {{class_path: FSDP, init_args: {{state_dict_type: full}}}}).",
        folder.string()));
  }
  return folder;
}

}  // namespace

void save_together(const fs::Path& path, const std::vector<NamedPart>& parts,
                   const std::function<void(CheckpointPart&)>& add_rest,
                   const nlohmann::json& about, Strategy& strategy, const Sharding& sharding) {
  const bool is_first = strategy.is_global_zero();
  std::optional<CheckpointWriter> writer;  // of rank 0
  std::string failure;
  if (is_first) {
    failure = failure_of([&] { writer.emplace(std::filesystem::absolute(path)); });
  }
  failure = world().broadcast(failure);
  throw_if_failed(path, failure);
  const fs::Path folder = world().broadcast(writer ? writer->folder().string() : "");

  std::optional<CheckpointPart> part;  // of the others
  CheckpointPart* own = is_first ? &*writer : nullptr;
  failure = failure_of([&] {
    if (sharding.saves_whole()) {
      write_whole(parts, own, strategy, sharding);
    } else {
      own = is_first ? own : &part.emplace(visible(folder));
      write_parts(parts, *own, strategy, sharding);
    }
    if (is_first) {
      add_rest(*own);
    }
  });
  const nlohmann::json outcome = {{"failure", failure},
                                  {"files", own != nullptr ? own->files() : nlohmann::json()}};
  std::vector<nlohmann::json> outcomes;
  for (const auto& text :
       world().all_gather(outcome.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))) {
    outcomes.push_back(nlohmann::json::parse(text));
    throw_if_failed(path, outcomes.back().at("failure"));
  }
  if (is_first) {
    failure = failure_of([&] {
      for (const auto& written : outcomes) {
        if (!written.at("files").is_null()) {
          writer->add_part(written.at("files"));
        }
      }
      writer->commit(about);
    });
  }
  throw_if_failed(path, world().broadcast(failure));
}

}  // namespace trainer
