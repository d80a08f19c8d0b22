#pragma once
// Damaged and hostile input: whatever a reader is given, it reads it or throws a trainer::Error.
// Every round has its own seed, so that a round that fails, fails again.

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>

namespace trainer::test {

/// Rounds of one test: TRAINER_FUZZ_ROUNDS where it is set, else few enough for every run.
inline int fuzz_rounds(int quick) {
  const char* rounds = std::getenv("TRAINER_FUZZ_ROUNDS");
  return rounds == nullptr ? quick : std::atoi(rounds);
}

/// How often input was read, and refused.
struct FuzzCount {
  int read = 0;
  int refused = 0;
};

/// Calls `read(mutate(random))` again and again. Anything thrown that is no Error fails the test.
inline FuzzCount fuzz(int quick_rounds, const std::function<std::string(std::mt19937_64&)>& mutate,
                      const std::function<void(const std::string&)>& read) {
  FuzzCount count;
  for (int round = 0; round < fuzz_rounds(quick_rounds); ++round) {
    std::mt19937_64 random(static_cast<uint64_t>(round));
    const std::string input = mutate(random);
    try {
      read(input);
      ++count.read;
    } catch (const Error& error) {
      EXPECT_STRNE(error.what(), "");
      ++count.refused;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "round " << round << ": " << error.what() << "\n"
                    << testing::PrintToString(input.substr(0, 2000));
    }
  }
  return count;
}

/// `whole` with one to four changes: bits, cuts, copies of its parts, pieces of the format.
inline std::string mutated(std::string bytes, const std::vector<std::string>& pieces,
                           std::mt19937_64& random) {
  for (auto changes = random() % 4 + 1; changes > 0; --changes) {
    const size_t at = random() % (bytes.size() + 1);
    switch (random() % 6) {
      case 0: bytes.resize(at); break;
      case 1: bytes.erase(at, random() % 8 + 1); break;
      case 2: bytes.insert(at, bytes.substr(random() % (bytes.size() + 1), random() % 60)); break;
      case 3: bytes.insert(at, pieces[random() % pieces.size()]); break;
      default:
        if (at < bytes.size()) {
          bytes[at] = static_cast<char>(random() % 2 == 0 ? bytes[at] ^ (1 << random() % 8)
                                                          : static_cast<int>(random() % 256));
        }
    }
  }
  return bytes;
}

/// `whole` with one value replaced by another, or taken away.
inline nlohmann::json mutated(const nlohmann::json& whole, std::mt19937_64& random) {
  static const auto kValues = nlohmann::json::parse(
      R"([null, true, 0, -1, 1, 3, 9223372036854775807, -9223372036854775808,
          18446744073709551615, 1e308, -0.5, "", "x", "0", [], [0], [null, null], {}, {"x": 1}])");
  const auto flat = whole.flatten();
  auto entry = flat.begin();
  std::advance(entry, static_cast<int64_t>(random() % flat.size()));
  nlohmann::json::json_pointer place(entry.key());
  for (auto up = random() % 3; up > 0 && !place.parent_pointer().empty(); --up) {
    place = place.parent_pointer();
  }
  nlohmann::json result = whole;
  auto& parent = result.at(place.parent_pointer());
  if (random() % 4 == 0 && parent.is_object()) {
    parent.erase(place.back());
  } else if (random() % 4 == 0 && parent.is_array()) {
    parent.erase(std::stoul(place.back()));
  } else {
    result.at(place) = kValues.at(random() % kValues.size());
  }
  return result;
}

}  // namespace trainer::test
