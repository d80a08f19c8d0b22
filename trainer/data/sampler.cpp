#include <trainer/data/sampler.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/seed.h>

namespace trainer {
namespace {

/// Smaller tables give visibly uneven permutations: the rounds have too few shifts to choose from.
constexpr uint64_t kMinTableSize = 64;

/// A pseudo-random number in 0..bound-1 (bound <= 2^32) from `x`.
uint64_t round_function(uint64_t x, uint64_t key, uint64_t bound) {
  x = (x ^ key) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 32)) * 0x94d049bb133111ebULL;
  return ((x >> 32) * bound) >> 32;
}

/// (value + shift) % bound, for both below bound.
uint64_t shifted(uint64_t value, uint64_t shift, uint64_t bound) {
  const uint64_t sum = value + shift;
  return sum >= bound ? sum - bound : sum;
}

}  // namespace

Permutation::Permutation(int64_t size, uint64_t seed) : size_(size) {
  if (size < 1) {
    throw UsageError(fmt::format("Permutation: size {}; it has to be at least 1.", size));
  }
  const uint64_t table_size = std::max(static_cast<uint64_t>(size), kMinTableSize);
  num_rows_ = static_cast<uint64_t>(std::sqrt(static_cast<double>(table_size)));
  num_columns_ = (table_size + num_rows_ - 1) / num_rows_;
  for (uint64_t round = 0; round < kRounds; ++round) {
    keys_[round] = derive_seed(seed, round);
  }
}

int64_t Permutation::operator[](int64_t position) const {
  auto cell = static_cast<uint64_t>(position);
  do {  // the few cells past the end lead on to one that is not
    uint64_t row = cell / num_columns_;
    uint64_t column = cell % num_columns_;
    for (int round = 0; round < kRounds; round += 2) {
      row = shifted(row, round_function(column, keys_[round], num_rows_), num_rows_);
      column = shifted(column, round_function(row, keys_[round + 1], num_columns_), num_columns_);
    }
    cell = row * num_columns_ + column;
  } while (cell >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(cell);
}

}  // namespace trainer
