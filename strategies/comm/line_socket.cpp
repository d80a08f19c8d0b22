#include <strategies/comm/line_socket.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr int kConnectTimeoutMs = 5000;  // for each address
constexpr int kFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;

struct Address {
  sockaddr_storage storage = {};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// The name lies in no file system, and is gone with the process.
Address unix_address(const std::string& name) {
  Address address;
  auto* const unix = reinterpret_cast<sockaddr_un*>(&address.storage);
  unix->sun_family = AF_UNIX;
  const size_t length = std::min(name.size(), sizeof(unix->sun_path) - 1);
  std::memcpy(unix->sun_path + 1, name.data(), length);
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  return address;
}

Address tcp_address(in_addr ip, uint16_t port) {
  Address address;
  auto* const tcp = reinterpret_cast<sockaddr_in*>(&address.storage);
  tcp->sin_family = AF_INET;
  tcp->sin_port = htons(port);
  tcp->sin_addr = ip;
  address.size = sizeof(sockaddr_in);
  return address;
}

/// "10.0.0.5 192.168.1.5": those of this computer that another one may reach.
std::string addresses_of_host() {
  std::string text;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) {
    return text;
  }
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET ||
        (one->ifa_flags & IFF_UP) == 0 || (one->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    char name[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr, name,
                sizeof(name));
    text += std::string(" ") + name;
  }
  ::freeifaddrs(all);
  return text;
}

Descriptor try_connect(const Address& address) {
  Descriptor descriptor(::socket(address.storage.ss_family, SOCK_STREAM | kFlags, 0));
  if (!descriptor.is_open()) {
    return descriptor;
  }
  int result = ::connect(descriptor.get(), address.get(), address.size);
  if (result != 0 && (errno == EINPROGRESS || errno == EAGAIN)) {
    pollfd wanted{descriptor.get(), POLLOUT, 0};
    int error = ETIMEDOUT;
    socklen_t size = sizeof(error);
    if (::poll(&wanted, 1, kConnectTimeoutMs) == 1) {
      ::getsockopt(descriptor.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    }
    errno = error;
    result = error == 0 ? 0 : -1;
  }
  return result == 0 ? std::move(descriptor) : Descriptor();
}

}  // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

void LineSocket::close() { descriptor_ = Descriptor(); }

void LineSocket::send(std::string_view line) {
  unsent_ += line;
  unsent_ += '\n';
  while (is_open() && !unsent_.empty()) {
    const ssize_t sent = ::send(fd(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      unsent_.erase(0, static_cast<size_t>(sent));
    } else if (errno != EINTR) {
      break;  // full, or gone, which receive() finds out
    }
  }
}

std::vector<std::string> LineSocket::receive() {
  char buffer[4096];
  while (is_open()) {
    const ssize_t size = ::recv(fd(), buffer, sizeof(buffer), 0);
    if (size > 0) {
      unread_.append(buffer, static_cast<size_t>(size));
    } else if (size == 0 || (errno != EINTR && errno != EAGAIN)) {
      close();
    } else if (errno == EAGAIN) {
      break;
    }
  }
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t end = 0; (end = unread_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(unread_.substr(begin, end - begin));
  }
  unread_.erase(0, begin);
  return lines;
}

LineListener::LineListener(bool is_one_node)
    : descriptor_(::socket(is_one_node ? AF_UNIX : AF_INET, SOCK_STREAM | kFlags, 0)) {
  std::random_device random;
  const std::string name = fmt::format("trainer-{}-{:08x}{:08x}", ::getpid(), random(), random());
  Address address = is_one_node ? unix_address(name) : tcp_address({INADDR_ANY}, 0);
  if (!descriptor_.is_open() || ::bind(fd(), address.get(), address.size) != 0 ||
      ::listen(fd(), SOMAXCONN) != 0) {
    throw CommError(fmt::format("cannot listen for the other ranks: {}", std::strerror(errno)));
  }
  if (is_one_node) {
    address_ = "unix " + name;
    return;
  }
  address.size = sizeof(address.storage);
  ::getsockname(fd(), reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  const auto port = ntohs(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
  address_ = fmt::format("tcp {}{}", port, addresses_of_host());
}

std::optional<LineSocket> LineListener::accept() {
  Descriptor descriptor(::accept4(fd(), nullptr, nullptr, kFlags));
  return descriptor.is_open() ? std::optional(LineSocket(std::move(descriptor))) : std::nullopt;
}

LineSocket connect_line(const std::string& text) {
  std::istringstream words(text);
  std::string kind, word;
  words >> kind >> word;
  std::vector<Address> addresses;
  if (kind == "unix") {
    addresses.push_back(unix_address(word));
  }
  const auto port = static_cast<uint16_t>(std::atoi(word.c_str()));
  for (in_addr ip{}; kind == "tcp" && words >> word;) {
    ::inet_pton(AF_INET, word.c_str(), &ip);
    addresses.push_back(tcp_address(ip, port));
  }
  errno = EADDRNOTAVAIL;
  for (const auto& address : addresses) {
    if (Descriptor descriptor = try_connect(address); descriptor.is_open()) {
      const int on = 1;
      ::setsockopt(descriptor.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // Unix: no effect
      return LineSocket(std::move(descriptor));
    }
  }
  throw CommError(fmt::format("cannot connect to rank 0 at {}: {}", text, std::strerror(errno)));
}

}  // namespace trainer
