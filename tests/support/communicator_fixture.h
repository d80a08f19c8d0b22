#pragma once
// For tests that run on several ranks: the communicator of all of them for tensors on the
// processor.

#include <gtest/gtest.h>

#include <strategies/comm/communicator.h>

namespace trainer::test {

class CommunicatorFixture : public testing::Test {
 protected:
  static Communicator& comm() {
    static const auto instance = world_communicator(torch::kCPU);
    return *instance;
  }
  static int rank() { return comm().rank(); }
  static int size() { return comm().size(); }
};

}  // namespace trainer::test
