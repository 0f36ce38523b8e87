#include "cli/signals.h"

#include <unistd.h>

#include <csignal>

#include "cli/failure.h"

namespace quire::cli {
namespace {

volatile std::sig_atomic_t received = 0;

void on_signal(int number) {
  if (received != 0) ::_exit(kSignal + number);
  received = number;
}

}  // namespace

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;  // without SA_RESTART: a wait for input must end too
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // Beyond a limit on file sizes (ulimit -f) a write shall fail, not end the program.
  action.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &action, nullptr);
}

int stop_signal() { return received; }

void forget_stop_signal() { received = 0; }

int signal_exit_code() { return kSignal + received; }

}  // namespace quire::cli
