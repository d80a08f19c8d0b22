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
  /// The whole lines that have come.
  std::vector<std::string> receive();

 private:
  Descriptor descriptor_;
  std::string unsent_, unread_;
};

class LineListener {
 public:
  /// `is_one_node`: nobody connects from elsewhere. Throws CommError.
  explicit LineListener(bool is_one_node);

  int fd() const { return descriptor_.get(); }
  /// For connect_line(), on any node.
  const std::string& address() const { return address_; }
  /// One that waits to be let in.
  std::optional<LineSocket> accept();

 private:
  Descriptor descriptor_;
  std::string address_;
};

/// Waits for some seconds at most. Throws CommError that names the address.
LineSocket connect_line(const std::string& address);

}  // namespace trainer
