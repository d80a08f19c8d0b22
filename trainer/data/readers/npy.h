#pragma once
// NPY files, NumPy's format for one array: the way to take arrays from Python and to give tensors
// back to it.

#include <torch/types.h>

#include <trainer/core/filesystem.h>

namespace trainer::data {

/// The array of an NPY file of version 1.0, 2.0 or 3.0, as numpy.save() writes it. NaN and infinity
/// are taken as they are.
///
/// Shapes: as stored; [] for a scalar. The tensor is contiguous, also where the file is in Fortran
///         order.
/// Dtypes: bool, int8 to int64, uint8 to uint64, float16, float32, float64, complex64, complex128,
///         little- or big-endian. Nothing else: Python objects would need pickle, which runs code
///         that comes with the file.
/// Throws: DataError when the file is missing, unreadable, damaged (its header is read strictly and
///         its size has to fit exactly), or of a dtype not listed.
/// Source: NumPy enhancement proposal 1 and the documentation of numpy.lib.format.
torch::Tensor read_npy(const fs::Path& path);

/// Writes a dense tensor, on any device and of any strides, as version 1.0 in C order. The file is
/// replaced at once: a reader sees the old array or the new one.
///
/// Throws: UsageError for a tensor that is undefined, sparse or on the meta device, or of a dtype
///         that NumPy does not have (bfloat16, float8, ...); IoError when the file cannot be
///         written.
/// Syncs:  yes, when the tensor is not on the CPU.
void write_npy(const fs::Path& path, const torch::Tensor& tensor);

}  // namespace trainer::data
