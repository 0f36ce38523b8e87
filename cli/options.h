#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/number.h"

namespace quire::cli {

/// The options and arguments of one command. Each `add` binds a variable that keeps its value
/// unless the option is given; `parse` fills them. Lists are given by repeating the option; every
/// other one is given once at most.
class Options {
 public:
  /// `command`: "run"; `synopsis`: what follows it, "MODEL [PROMPT]"; `summary`: for --help.
  Options(const std::string& command, const std::string& synopsis, const std::string& summary);
  ~Options();
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  /// The heading in --help of the options that follow.
  void group(const std::string& title);

  /// A word without an option: "MODEL". Absent ones stay empty.
  void argument(const std::string& name, std::optional<std::string>& value,
                const std::string& help);
  /// All words that are left: "NAME".
  void arguments(const std::string& name, std::vector<std::string>& values,
                 const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);
  void text(const std::string& name, const std::string& unit, std::optional<std::string>& value,
            const std::string& help);
  void texts(const std::string& name, const std::string& unit, std::vector<std::string>& values,
             const std::string& help);
  void choice(const std::string& name, std::string& value, std::vector<std::string> choices,
              const std::string& help);
  void integer(const std::string& name, std::optional<std::int64_t>& value, IntegerRange range,
               const std::string& help, Suffix suffix = Suffix::kNone);
  /// N tokens, or N% as a share in (0, 1], or what has a colon, as it is.
  void tokens_or_share(const std::string& name, std::optional<std::int64_t>& tokens,
                       std::optional<double>& share, std::optional<std::string>& other,
                       IntegerRange range, const std::string& help);
  void seed(const std::string& name, std::uint64_t& value, const std::string& help);
  void number(const std::string& name, std::optional<double>& value, NumberRange range,
              const std::string& help);
  void integers(const std::string& name, std::optional<std::vector<std::int64_t>>& values,
                IntegerRange range, const std::string& help);

  /// False when --help was asked for and printed. Throws ArgumentError for everything that the
  /// command does not take, naming the nearest option.
  bool parse(std::span<const std::string> arguments);

  /// "quire run"
  const std::string& command() const { return command_; }
  /// Throws ArgumentError unless the argument was given.
  const std::string& need(const std::optional<std::string>& value, const std::string& name) const;

 private:
  struct Impl;
  enum class Repeat { kNo, kYes };
  void add(const std::string& name, const std::string& unit, const std::string& help,
           std::function<void(const std::string& text)> take, Repeat repeat = Repeat::kNo);

  std::string command_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quire::cli
