#pragma once
// IDX files, the format of MNIST and its kin (train-images-idx3-ubyte): one array of numbers with
// its shape.

#include <cstdint>

#include <torch/types.h>

#include <trainer/core/filesystem.h>
#include <trainer/data/readers/gzip.h>

namespace trainer::data {

/// The array of an IDX file, gzip-compressed or not (told by its content, not by its name).
///
/// Shapes: as stored, for example [60000, 28, 28] for the MNIST images.
/// Dtypes: as stored: uint8, int8, int16, int32, float32 or float64.
/// Throws: DataError when the file is missing, unreadable, damaged, or after decompression larger
///         than `max_bytes`. Offsets in messages count decompressed bytes, except where they speak
///         of the gzip data.
/// Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section
///         "File formats for the MNIST database".
torch::Tensor read_idx(const fs::Path& path, uint64_t max_bytes = kMaxFileBytes);

}  // namespace trainer::data
