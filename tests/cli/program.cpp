#include "tests/cli/program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace quire::test {
namespace {

// Sanitizers take terabytes of addresses for themselves.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kLimitsMemory = false;
#else
constexpr bool kLimitsMemory = true;
#endif

constexpr auto kLongest =
    std::chrono::minutes(10);  // CTest's own limits are shorter for fast tests

struct Pipe {
  int read = -1, write = -1;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  return {ends[0], ends[1]};
}

Pipe make_terminal(int columns) {
  winsize size{};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(columns);
  Pipe ends;
  if (::openpty(&ends.read, &ends.write, nullptr, nullptr, &size) != 0) {
    throw std::runtime_error("openpty");
  }
  return ends;
}

[[noreturn]] void become(const std::vector<std::string>& arguments, const Start& start, int in,
                         int out, int err) {
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_DFL);
  for (const auto& [name, value] : start.environment) {
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  if (kLimitsMemory && start.memory_limit > 0) {
    const rlimit limit{start.memory_limit, start.memory_limit};
    ::setrlimit(RLIMIT_AS, &limit);
  }
  if (start.most_file_bytes > 0) {
    const rlimit limit{start.most_file_bytes, start.most_file_bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::vector<char*> argv{const_cast<char*>("quire")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(QUIRE_PROGRAM, argv.data());
  ::_exit(127);
}

/// Appends what is there; false at the end.
bool take(int file, std::string& text) {
  std::array<char, 1 << 16> buffer;
  const ssize_t got = ::read(file, buffer.data(), buffer.size());
  if (got <= 0) return false;
  text.append(buffer.data(), static_cast<std::size_t>(got));
  return true;
}

/// Feeds and listens until the program has closed everything.
void attend(int process, const Start& start, int in, int out, int err, Ended& ended) {
  std::size_t fed = 0;
  ::fcntl(in, F_SETFL, O_NONBLOCK);
  const auto end = std::chrono::steady_clock::now() + kLongest;
  std::array<pollfd, 3> files{{{in, POLLOUT, 0}, {out, POLLIN, 0}, {err, POLLIN, 0}}};
  const auto close_file = [](pollfd& file) {
    if (file.fd >= 0) ::close(file.fd);
    file.fd = -1;
  };
  if (start.input.empty()) close_file(files[0]);
  while (files[1].fd >= 0 || files[2].fd >= 0) {
    ::poll(files.data(), files.size(), 100);
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "the program does not end";
      ::kill(process, SIGKILL);
      break;
    }
    if (files[0].fd >= 0 && files[0].revents != 0) {
      const ssize_t put = ::write(in, start.input.data() + fed, start.input.size() - fed);
      if (put > 0) fed += static_cast<std::size_t>(put);
      if (put < 0 || fed == start.input.size()) close_file(files[0]);
    }
    if (files[1].fd >= 0 && files[1].revents != 0 && !take(out, ended.out)) close_file(files[1]);
    if (files[2].fd >= 0 && files[2].revents != 0) {
      if (!take(err, ended.err)) {
        close_file(files[2]);
      } else if (start.on_error_text) {
        start.on_error_text(process, ended.err);
      }
    }
  }
  for (pollfd& file : files) close_file(file);
}

}  // namespace

Ended quire(const std::vector<std::string>& arguments, const Start& start) {
  std::signal(SIGPIPE, SIG_IGN);
  const Pipe in = make_pipe(), out = make_pipe();
  const Pipe err = start.terminal_columns > 0 ? make_terminal(start.terminal_columns) : make_pipe();
  int output = out.write;
  if (!start.output_file.empty()) output = ::open(start.output_file.c_str(), O_WRONLY | O_CLOEXEC);
  if (start.close_output) ::close(out.read);
  const int process = ::fork();
  if (process == 0) become(arguments, start, in.read, output, err.write);
  for (const int file : {in.read, out.write, err.write}) ::close(file);
  if (output != out.write) ::close(output);
  Ended ended;
  attend(process, start, in.write, start.close_output ? -1 : out.read, err.read, ended);
  int status = 0;
  ::waitpid(process, &status, 0);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

std::string scratch_folder() {
  static const struct Folder {
    std::filesystem::path path =
        std::filesystem::path(testing::TempDir()) / ("quire-" + std::to_string(::getpid()));
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } all;
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder = all.path / info->test_suite_name() / info->name();
  std::filesystem::create_directories(folder);
  return folder.string();
}

std::string scratch_file(const std::string& name, const std::string& content) {
  const std::string path = scratch_folder() + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string golden(const std::string& name) {
  return std::string(QUIRE_SOURCE_DIR) + "/tests/goldens/" + name;
}

std::string tiny_model() {
  std::string bytes = read_file(golden("tiny/llama.gguf"));
  const std::string key = "tokenizer.ggml.pre";
  const std::size_t at = bytes.find(key);
  EXPECT_NE(at, std::string::npos);
  bytes[at + key.size() - 1] = 'x';
  return scratch_file("tiny.gguf", bytes);
}

int lines(const std::string& text) {
  return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace quire::test
