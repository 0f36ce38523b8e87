#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/nearest.h"
#include "cli/output.h"
#include "quire/base/error.h"

namespace quire::cli {

namespace {

constexpr std::ptrdiff_t kShownChoices = 6;

/// One usage line as we write them, and no more empty lines than needed: --help fits a screen.
class HelpText : public CLI::Formatter {
 public:
  explicit HelpText(std::string usage) : usage_(std::move(usage)) { column_width(30); }
  std::string make_usage(const CLI::App* /*app*/, std::string /*name*/) const override {
    return usage_;
  }
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    return group + ":\n" + lines(options, is_positional);
  }
  std::string make_positionals(const CLI::App* app) const override {
    const std::string out =
        lines(app->get_options([](const CLI::Option* o) { return o->get_positional(); }), true);
    return out.empty() ? out : out + "\n";
  }

 private:
  std::string lines(const std::vector<const CLI::Option*>& options, bool is_positional) const {
    std::string out;
    for (const CLI::Option* option : options) out += make_option(option, is_positional);
    return out;
  }
  std::string usage_;
};

}  // namespace

struct Options::Impl {
  explicit Impl(const std::string& summary) : app(summary) {}
  CLI::App app;
  std::string group = "Options";
};

Options::Options(const std::string& command, const std::string& synopsis,
                 const std::string& summary)
    : command_("quire " + command), impl_(std::make_unique<Impl>(summary)) {
  impl_->app.name(command_);
  impl_->app.formatter(
      std::make_shared<HelpText>(fmt::format("\nusage: {} {} [option…]\n\n", command_, synopsis)));
  impl_->app.set_help_flag("--help,-h", "Print this and leave");
}

Options::~Options() = default;

void Options::group(const std::string& title) { impl_->group = title; }

void Options::add(const std::string& name, const std::string& unit, const std::string& help,
                  std::function<void(const std::string& text)> take, Repeat repeat) {
  const bool repeats = repeat == Repeat::kYes;
  const auto callback = [name, repeats, take = std::move(take)](const CLI::results_t& results) {
    QUIRE_CHECK(repeats || results.size() == 1, name, " is given ",
                static_cast<std::int64_t>(results.size()), " times; give it once");
    for (const std::string& text : results) take(text);
    return true;
  };
  CLI::Option* option = impl_->app.add_option(name, callback, help);
  option->type_name(unit)->allow_extra_args(false);
  if (!name.starts_with("--")) return;
  option->group(impl_->group);
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);  // so that the callback counts them
}

void Options::argument(const std::string& name, std::optional<std::string>& value,
                       const std::string& help) {
  add(name, "", help, [&value](const std::string& text) { value = text; });
}

void Options::arguments(const std::string& name, std::vector<std::string>& values,
                        const std::string& help) {
  add(
      name, "", help, [&values](const std::string& text) { values.push_back(text); }, Repeat::kYes);
  impl_->app.get_option(name)->expected(-1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void Options::flag(const std::string& name, bool& value, const std::string& help) {
  impl_->app
      .add_flag_callback(
          name, [&value] { value = true; }, help)
      ->disable_flag_override()
      ->group(impl_->group);
}

void Options::text(const std::string& name, const std::string& unit,
                   std::optional<std::string>& value, const std::string& help) {
  add(name, unit, help, [&value](const std::string& text) { value = text; });
}

void Options::texts(const std::string& name, const std::string& unit,
                    std::vector<std::string>& values, const std::string& help) {
  add(
      name, unit, help, [&values](const std::string& text) { values.push_back(text); },
      Repeat::kYes);
}

void Options::choice(const std::string& name, std::string& value, std::vector<std::string> choices,
                     const std::string& help) {
  // A long list is for the documents, and for the message below.
  const bool all = static_cast<std::ptrdiff_t>(choices.size()) <= kShownChoices;
  const auto end = all ? choices.end() : choices.begin() + kShownChoices - 1;
  const std::string unit =
      fmt::format("{}{}", fmt::join(choices.begin(), end, "|"), all ? "" : "|…");
  add(name, unit, help, [&value, name, choices = std::move(choices)](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      const std::string meant = nearest(text, choices);
      throw ArgumentError(fmt::format("{} is '{}'; {}in this version: {}", name, text,
                                      meant.empty() ? "" : fmt::format("did you mean {}? ", meant),
                                      fmt::join(choices, ", ")));
    }
    value = text;
  });
}

void Options::integer(const std::string& name, std::optional<std::int64_t>& value,
                      IntegerRange range, const std::string& help, Suffix suffix) {
  add(name, "N", help, [&value, name, range, suffix](const std::string& text) {
    value = parse_integer(name, text, range, suffix);
  });
}

void Options::tokens_or_share(const std::string& name, std::optional<std::int64_t>& tokens,
                              std::optional<double>& share, std::optional<std::string>& other,
                              IntegerRange range, const std::string& help) {
  add(name, "N|N%", help, [&tokens, &share, &other, name, range](const std::string& text) {
    tokens.reset();
    share.reset();
    other.reset();
    if (text.find(':') != std::string::npos) {
      other = text;
      return;
    }
    if (text.ends_with('%')) {
      share = parse_percent(name, text);
    } else {
      tokens = parse_integer(name, text, range, Suffix::kSize);
    }
  });
}

void Options::seed(const std::string& name, std::uint64_t& value, const std::string& help) {
  add(name, "N", help,
      [&value, name](const std::string& text) { value = parse_unsigned(name, text); });
}

void Options::number(const std::string& name, std::optional<double>& value, NumberRange range,
                     const std::string& help) {
  add(name, "X", help,
      [&value, name, range](const std::string& text) { value = parse_number(name, text, range); });
}

void Options::integers(const std::string& name, std::optional<std::vector<std::int64_t>>& values,
                       IntegerRange range, const std::string& help) {
  add(name, "N,N", help, [&values, name, range](const std::string& text) {
    values = parse_integers(name, text, range);
  });
}

namespace {

/// The message for what the command does not know, or empty when all was known.
std::string unknown(const CLI::App& app, const std::string& command) {
  std::vector<std::string> rest = app.remaining();
  const auto end = std::find(rest.begin(), rest.end(), "--");  // behind it, nothing is an option
  const auto option = std::find_if(rest.begin(), end, [](const std::string& word) {
    return word.size() > 1 && word.front() == '-';
  });
  if (option == end) {
    if (end != rest.end()) rest.erase(end);
    return rest.empty()
               ? std::string()
               : fmt::format("unexpected argument '{}' ({} --help)", rest.front(), command);
  }
  std::vector<std::string> known;
  for (const CLI::Option* candidate : app.get_options()) {
    for (const std::string& name : candidate->get_lnames()) known.push_back("--" + name);
  }
  const std::string typed = option->substr(0, option->find('='));
  const std::string meant = nearest(typed, known);
  const std::string advice = meant.empty() ? "" : fmt::format("; did you mean {}?", meant);
  return fmt::format("unknown option {}{} ({} --help)", typed, advice, command);
}

/// What CLI11 says, in our words where it is the one thing that people meet.
std::string told(const CLI::ParseError& error) {
  const std::string text = error.what();
  if (text.ends_with(" flag override")) {
    return fmt::format("--{} takes no value", text.substr(0, text.find(' ')));
  }
  const std::size_t colon = text.find(": ");
  const bool missing = text.find(" required ") != std::string::npos && text.ends_with(" missing");
  if (!missing || colon == std::string::npos) return text;
  return fmt::format("{} needs a value behind it", text.substr(0, colon));
}

}  // namespace

bool Options::parse(std::span<const std::string> arguments) {
  impl_->app.get_help_ptr()->group("");  // the one option that everybody knows
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
  try {
    impl_->app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    print(impl_->app.help());
    return false;
  } catch (const CLI::ParseError& error) {
    const std::string message = unknown(impl_->app, command_);
    throw ArgumentError(message.empty() ? fmt::format("{} ({} --help)", told(error), command_)
                                        : message);
  }
  return true;
}

const std::string& Options::need(const std::optional<std::string>& value,
                                 const std::string& name) const {
  if (!value) throw ArgumentError(fmt::format("{} is missing ({} --help)", name, command_));
  return *value;
}

}  // namespace quire::cli
