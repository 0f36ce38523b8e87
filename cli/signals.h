#pragma once

namespace quire::cli {

/// From now on the first SIGINT or SIGTERM only sets a flag, so that the work in hand can end well;
/// the second ends the program at once.
void catch_signals();

/// The signal that asked to stop, 0 when none did.
int stop_signal();

/// Forgets it: the work that it stopped was not the whole program.
void forget_stop_signal();

/// 128 plus the signal.
int signal_exit_code();

}  // namespace quire::cli
