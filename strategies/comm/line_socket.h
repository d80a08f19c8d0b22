#pragma once
// Lines of text between the processes of a job, beside MPI: over a socket of the abstract Unix kind
// on one computer, over TCP between several. For one thread.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trainer {

/// A descriptor that is closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_;
};

/// One end of a connection. Nothing of it waits.
class LineSocket {
 public:
  LineSocket() = default;
  explicit LineSocket(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

  int fd() const { return descriptor_.get(); }
  /// False once the other end is gone.
  bool is_open() const { return descriptor_.is_open(); }
  void close();

  /// What the other end does not take yet goes with the next call.
  void send(std::string_view line);
  /// The next whole line, where it has come. A megabyte without an end closes the connection.
  std::optional<std::string> receive();

 private:
  Descriptor descriptor_;
  std::string unsent_, unread_;
};

class LineListener {
 public:
  struct Guest {
    LineSocket socket;
    std::string introduction;
  };

  /// `is_one_node`: nobody connects from elsewhere. Throws CommError.
  explicit LineListener(bool is_one_node);

  /// For connect_line(), on any node: a secret, with the random key that it asks of a guest.
  const std::string& address() const { return address_; }
  /// Where something comes in before accept() has more to return.
  std::vector<int> descriptors() const;
  /// Those that have come since the last call, and knew the key.
  std::vector<Guest> accept();

 private:
  Descriptor descriptor_;
  std::string key_, address_;
  std::vector<LineSocket> strangers_;  // that have not said it yet
};

/// Waits for some seconds at most. `introduction`: a line of the caller's own. Throws CommError.
LineSocket connect_line(const std::string& address, const std::string& introduction);

}  // namespace trainer
