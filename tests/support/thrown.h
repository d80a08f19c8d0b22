#pragma once
// What an error says.

#include <string>

#include <gtest/gtest.h>

namespace trainer::test {

/// The message of the `E` that `call` throws; a failure of the test where it throws none.
template <class E, class F>
std::string thrown(F&& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace trainer::test
