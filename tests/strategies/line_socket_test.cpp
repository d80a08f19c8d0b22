#include <strategies/comm/line_socket.h>

#include <sys/socket.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

/// Asks until something has come, for some seconds.
template <class T>
T awaited(const std::function<T()>& ask) {
  T answer = ask();
  for (int i = 0; i < 5000 && !answer; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    answer = ask();
  }
  return answer;
}

std::string line_of(LineSocket& socket) {
  return awaited<std::optional<std::string>>([&] { return socket.receive(); }).value_or("nothing");
}

std::optional<LineListener::Guest> guest_of(LineListener& listener) {
  return awaited<std::optional<LineListener::Guest>>([&] {
    auto guests = listener.accept();
    return guests.empty() ? std::nullopt : std::optional(std::move(guests.front()));
  });
}

/// Over Unix sockets and TCP. A computer without a network reaches itself by its own address.
class LineSocketTest : public testing::TestWithParam<bool> {
 protected:
  std::string address() const {
    const bool has_none = !GetParam() && listener_.address().find('.') == std::string::npos;
    return listener_.address() + (has_none ? " 127.0.0.1" : "");
  }

  LineListener listener_{/*is_one_node=*/GetParam()};
};

TEST_P(LineSocketTest, CarriesLinesBothWays) {
  auto here = connect_line(address(), "rank 1, say");
  auto guest = guest_of(listener_);
  ASSERT_TRUE(guest);
  EXPECT_EQ(guest->introduction, "rank 1, say");
  const std::string longer(100'000, 'x');
  here.send("a");
  here.send("");
  here.send(longer);
  EXPECT_EQ(line_of(guest->socket), "a");
  EXPECT_EQ(line_of(guest->socket), "");
  EXPECT_TRUE(line_of(guest->socket) == longer);
  guest->socket.send("b");
  EXPECT_EQ(line_of(here), "b");
  EXPECT_FALSE(here.receive());
  EXPECT_TRUE(here.is_open());
  guest.reset();
  awaited<bool>([&] { return here.receive() || !here.is_open(); });
  EXPECT_FALSE(here.is_open());
}

TEST_P(LineSocketTest, LetsNobodyInWithoutTheKey) {
  auto wrong = address();
  wrong[0] = wrong[0] == '0' ? '1' : '0';
  auto stranger = connect_line(wrong, "rank 1, say");
  const auto is_shut_out = [&] {
    EXPECT_TRUE(listener_.accept().empty());
    stranger.receive();
    return !stranger.is_open();
  };
  EXPECT_TRUE(awaited<bool>(is_shut_out));
}

TEST_P(LineSocketTest, ClosesWhereALineDoesNotEnd) {
  auto here = connect_line(address(), "somebody");
  auto guest = guest_of(listener_);
  ASSERT_TRUE(guest);
  const std::string piece(1 << 16, 'x');
  for (int i = 0; i < 1000 && guest->socket.is_open(); ++i) {
    ::send(here.fd(), piece.data(), piece.size(), MSG_NOSIGNAL);
    EXPECT_FALSE(guest->socket.receive());
  }
  EXPECT_FALSE(guest->socket.is_open());
}

TEST(ConnectLine, NamesAnAddressWhereNobodyListens) {
  const auto error = test::thrown<CommError>([] { connect_line("key unix nobody", ""); });
  EXPECT_NE(error.find("cannot connect to rank 0 at unix nobody"), std::string::npos) << error;
}

INSTANTIATE_TEST_SUITE_P(Kinds, LineSocketTest, testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Unix") : std::string("TCP");
});

}  // namespace
}  // namespace trainer
