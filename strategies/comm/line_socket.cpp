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
constexpr size_t kMostBytes = size_t{1} << 20;
constexpr size_t kMostStrangers = 256;
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

std::optional<std::string> LineSocket::receive() {
  char buffer[4096];
  size_t end = unread_.find('\n');
  while (end == std::string::npos && is_open()) {
    const ssize_t size = ::recv(fd(), buffer, sizeof(buffer), 0);
    if (size > 0) {
      unread_.append(buffer, static_cast<size_t>(size));
      end = unread_.find('\n', unread_.size() - static_cast<size_t>(size));
    } else if (size < 0 && errno == EAGAIN) {
      break;
    } else if (size == 0 || errno != EINTR) {
      close();
    }
    if (end == std::string::npos && unread_.size() > kMostBytes) {
      close();
    }
  }
  if (end == std::string::npos) {
    return std::nullopt;
  }
  std::string line = unread_.substr(0, end);
  unread_.erase(0, end + 1);
  return line;
}

LineListener::LineListener(bool is_one_node)
    : descriptor_(::socket(is_one_node ? AF_UNIX : AF_INET, SOCK_STREAM | kFlags, 0)) {
  std::random_device random;  // the system's
  key_ = fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  const std::string name = fmt::format("trainer-{}-{:08x}{:08x}", ::getpid(), random(), random());
  Address address = is_one_node ? unix_address(name) : tcp_address({INADDR_ANY}, 0);
  const int fd = descriptor_.get();
  if (!descriptor_.is_open() || ::bind(fd, address.get(), address.size) != 0 ||
      ::listen(fd, SOMAXCONN) != 0) {
    throw CommError(fmt::format("cannot listen for the other ranks: {}", std::strerror(errno)));
  }
  if (is_one_node) {
    address_ = fmt::format("{} unix {}", key_, name);
    return;
  }
  address.size = sizeof(address.storage);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  const auto port = ntohs(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
  address_ = fmt::format("{} tcp {}{}", key_, port, addresses_of_host());
}

std::vector<int> LineListener::descriptors() const {
  std::vector<int> all = {descriptor_.get()};
  for (const auto& stranger : strangers_) {
    all.push_back(stranger.fd());
  }
  return all;
}

std::vector<LineListener::Guest> LineListener::accept() {
  for (;;) {
    Descriptor descriptor(::accept4(descriptor_.get(), nullptr, nullptr, kFlags));
    if (!descriptor.is_open()) {
      break;
    }
    strangers_.emplace_back(std::move(descriptor));
    if (strangers_.size() > kMostStrangers) {
      strangers_.erase(strangers_.begin());
    }
  }
  std::vector<Guest> guests;
  std::erase_if(strangers_, [&](LineSocket& stranger) {
    const auto line = stranger.receive();
    if (line && line->starts_with(key_ + " ")) {
      guests.push_back({std::move(stranger), line->substr(key_.size() + 1)});
      return true;
    }
    return line.has_value() || !stranger.is_open();
  });
  return guests;
}

LineSocket connect_line(const std::string& text, const std::string& introduction) {
  std::istringstream words(text);
  std::string key, kind, word;
  words >> key >> kind >> word;
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
      LineSocket socket(std::move(descriptor));
      socket.send(fmt::format("{} {}", key, introduction));
      return socket;
    }
  }
  throw CommError(fmt::format("cannot connect to rank 0 at {}: {}", text.substr(key.size() + 1),
                              std::strerror(errno)));
}

}  // namespace trainer
