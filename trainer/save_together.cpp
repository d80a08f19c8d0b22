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

/// An error of one rank on every rank, of the same kind.
template <class Kind>
class Shared : public Kind, public OnEveryRank {
 public:
  using Kind::Kind;
};

/// Null for none.
nlohmann::json description_of(const std::exception_ptr& error) {
  if (error == nullptr) {
    return nullptr;
  }
  const auto described = [](ExitCode code, const std::exception& what) -> nlohmann::json {
    return {
        {"code", static_cast<int>(code)},
        {"text", fmt::format("{}: {}", rank_name(world().rank(), world().size()), what.what())}};
  };
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    return described(known.exit_code(), known);
  } catch (const std::filesystem::filesystem_error& of_disk) {
    return described(ExitCode::kIo, of_disk);
  } catch (const std::exception& other) {
    return described(ExitCode::kUserCode, other);
  }
}

[[noreturn]] void throw_described(const fs::Path& path, const nlohmann::json& error) {
  const std::string text = fmt::format("{}: this checkpoint is not saved. {}", path.string(),
                                       error.at("text").get<std::string>());
  switch (static_cast<ExitCode>(error.at("code").get<int>())) {
    case ExitCode::kIo: throw Shared<IoError>(text);
    case ExitCode::kNoInput: throw Shared<DataError>(text);
    default: throw Shared<UsageError>(text);
  }
}

/// Actions of which none is done after one that failed. Ranks that have lost each other cannot tell
/// each other of it: a CommError goes through.
class FirstError {
 public:
  template <class F>
  void attempt(const F& action) {
    if (error_ == nullptr) {
      try {
        action();
      } catch (const CommError&) {
        throw;
      } catch (const std::exception&) {
        error_ = std::current_exception();
      }
    }
  }
  /// Throws that of the first rank that has one, on every rank. Collective: yes.
  void agree(const fs::Path& path) const {
    const auto own = description_of(error_);
    for (const auto& text :
         world().all_gather(own.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))) {
      if (const auto error = nlohmann::json::parse(text); !error.is_null()) {
        throw_described(path, error);
      }
    }
  }

 private:
  std::exception_ptr error_;
};

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

using Forms = std::vector<safetensors::TensorForm>;

/// The tensors of one file, whole, in the order of their data.
Forms forms_of(const StatePart& state) {
  Forms forms;
  for (const auto& [name, tensor] : state.tensors) {
    const auto segment = state.segments.find(name);
    forms.push_back(
        {name, tensor.scalar_type(),
         segment != state.segments.end() ? segment->second.sizes : tensor.sizes().vec()});
  }
  return safetensors::in_data_order(std::move(forms));
}

/// The bytes of one tensor of all ranks together, a piece at a time, in `buffer`. `own` are those
/// of this rank, which lie at `own_first` among the `size` of all.
void gather(const torch::Tensor& own, int64_t own_first, int64_t size, const torch::Tensor& buffer,
            Strategy& strategy, const std::function<void(const torch::Tensor& bytes)>& take) {
  for (int64_t first = 0; first < size; first += kPieceBytes) {
    const int64_t end = std::min(first + kPieceBytes, size);
    // Each rank adds its bytes to zeros: the sum is the bytes of all, exactly.
    auto piece = buffer.narrow(0, 0, end - first).zero_();
    const int64_t begin = std::max(first, own_first);
    const int64_t count = std::min(end, own_first + own.numel()) - begin;
    if (count > 0) {
      piece.narrow(0, begin - first, count).copy_(own.narrow(0, begin - own_first, count));
    }
    strategy.all_reduce(piece, ReduceOp::kSum);
    take(piece);
  }
}

/// What ranks need that write whole tensors together.
struct Gathering {
  Strategy& strategy;
  const Sharding& sharding;
  CheckpointPart* folder;  // of rank 0
  torch::Tensor buffer;
  FirstError error;
};

/// One file, written by rank 0, to which the others send their segments. All go on to the end also
/// where one can do no more.
void write_whole_file(const NamedPart& part, const Forms& forms, Gathering& gathering) {
  const std::map<std::string, torch::Tensor> by_name(part.state.tensors.begin(),
                                                     part.state.tensors.end());
  const auto& segments = part.state.segments;
  CheckpointPart* const folder = gathering.folder;
  const std::string file_name = whole_file(part.name);
  std::optional<fs::OutputFile> file;
  const auto on_first = [&](const auto& action) {
    if (folder != nullptr) {
      gathering.error.attempt(action);
    }
  };
  on_first([&] {
    file.emplace(folder->folder() / file_name);
    safetensors::write_header(*file, forms);
  });
  for (const auto& form : forms) {
    const auto write = [&](const torch::Tensor& data) {
      on_first([&] {
        const auto dense = safetensors::dense_on_cpu(file_name, form.name, data);
        file->write(dense.const_data_ptr(), dense.nbytes());
      });
    };
    const auto& tensor = by_name.at(form.name);
    const auto segment = segments.find(form.name);
    if (segment == segments.end()) {
      write(tensor);
      continue;
    }
    const auto width = static_cast<int64_t>(c10::elementSize(form.dtype));
    auto own = gathering.buffer.narrow(0, 0, 0);
    if (gathering.sharding.writes_parts()) {
      gathering.error.attempt([&] {
        own = safetensors::dense_on_cpu(file_name, form.name, tensor).view(torch::kUInt8);
      });
    }
    gather(own, segment->second.first * width, c10::multiply_integers(form.shape) * width,
           gathering.buffer, gathering.strategy, write);
  }
  on_first([&] {
    file->sync();
    file->close();
    folder->add_written(file_name);
  });
}

/// Whole tensors into the files of `folder`.
void write_whole(const fs::Path& path, const std::vector<NamedPart>& parts, CheckpointPart* folder,
                 Strategy& strategy, const Sharding& sharding) {
  Gathering gathering{strategy, sharding, folder, {}, {}};
  std::vector<Forms> forms;
  on_every_rank(path, [&] {  // what can fail before the first rank waits for another
    gathering.buffer =
        torch::empty({kPieceBytes}, torch::device(strategy.device()).dtype(torch::kUInt8));
    for (const auto& part : parts) {
      forms.push_back(forms_of(part.state));
    }
  });
  for (size_t i = 0; i < parts.size(); ++i) {
    write_whole_file(parts[i], forms[i], gathering);
  }
  gathering.error.agree(path);
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
        "put runs on a disk that every node sees (trainer.default_root_dir), or have rank 0 write "
        "all of it (strategy: {{class_path: FSDP, init_args: {{state_dict_type: full}}}}).",
        folder.string()));
  }
  return folder;
}

}  // namespace

void on_every_rank(const fs::Path& path, const std::function<void()>& action) {
  FirstError error;
  error.attempt(action);
  error.agree(path);
}

void save_together(const fs::Path& path, const std::vector<NamedPart>& parts,
                   const std::function<void(CheckpointPart&)>& add_rest,
                   const nlohmann::json& about, Strategy& strategy, const Sharding& sharding) {
  const torch::NoGradGuard no_grad;
  const bool is_first = strategy.is_global_zero();
  std::optional<CheckpointWriter> writer;  // of rank 0
  std::optional<CheckpointPart> part;      // of the others, where they write
  on_every_rank(path, [&] {
    if (is_first) {
      writer.emplace(std::filesystem::absolute(path));
    }
  });
  const fs::Path folder = world().broadcast(writer ? writer->folder().string() : "");
  if (sharding.saves_whole()) {
    write_whole(path, parts, writer ? &*writer : nullptr, strategy, sharding);
  } else {
    on_every_rank(path, [&] {
      write_parts(parts, is_first ? *writer : part.emplace(visible(folder)), strategy, sharding);
    });
  }
  const auto files = world().all_gather(part ? part->files().dump() : "{}");
  on_every_rank(path, [&] {
    if (is_first) {
      for (const auto& written : files) {
        writer->add_part(nlohmann::json::parse(written));
      }
      add_rest(*writer);
      writer->commit(about);
    }
  });
}

}  // namespace trainer
