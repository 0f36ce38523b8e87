// quire chat: a conversation. Each turn renders all messages anew and reads only what the cache
// does not hold yet.

#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/failure.h"
#include "cli/input.h"
#include "cli/model_name.h"
#include "cli/output.h"
#include "cli/paged_session.h"
#include "cli/prompt.h"
#include "cli/sampling.h"
#include "cli/session_setup.h"
#include "cli/signals.h"
#include "quire/base/error.h"

namespace quire::cli {
namespace {

struct ChatArguments {
  Common common;
  Sampling sampling;
  CacheChoice cache;
  std::optional<std::string> model, system;
};

/// On pages where --cache-ram asks for it.
generate::Session make_session(const ChatArguments& a, const model::Model& model,
                               std::shared_ptr<const text::Tokenizer> tokenizer,
                               std::int64_t context) {
  const DType kv = kv_type(a.common);
  if (!a.cache.memory.ram) return {model, std::move(tokenizer), context, kv};
  return make_paged_session(model, std::move(tokenizer), a.cache, nullptr, kv, context, context)
      .session;
}

class Conversation {
 public:
  Conversation(const ChatArguments& a, const model::Model& model, text::TokenizerSpec spec,
               std::int64_t context)
      : a_(a),
        template_(chat_template_of(model.file(), "quire run --raw continues text without one")),
        variables_(template_variables(Json(Json::Array()), spec)),
        tokenizer_(text::Tokenizer::make(std::move(spec))),
        generate_(generate_spec(a.sampling, model.file())),
        session_(make_session(a, model, tokenizer_, context)) {
    clear();
  }

  void clear() {
    messages_.clear();
    if (a_.system) messages_.push_back(message("system", *a_.system));
  }

  /// Answers; the turn is forgotten when it throws or a signal stops it while it is read.
  void answer(const std::string& line) {
    messages_.push_back(message("user", line));
    generate::GenerateResult result;
    try {
      if (!read()) {
        messages_.pop_back();
        return;
      }
      result = write();
    } catch (...) {
      messages_.pop_back();
      throw;
    }
    messages_.push_back(message("assistant", result.text));
    if (result.finish_reason == generate::FinishReason::kLength &&
        static_cast<std::int64_t>(session_.ids().size()) >= session_.context()) {
      note(fmt::format("quire: the context of {} tokens is full; /clear begins anew",
                       session_.context()));
    }
  }

 private:
  bool read() {
    Json variables = variables_;
    variables["messages"] = Json(messages_);
    const std::vector<std::int32_t> ids = encode(*tokenizer_, template_.render(variables));
    check_prompt(static_cast<std::int64_t>(ids.size()), session_.context());
    const std::span<const std::int32_t> held = session_.ids();
    const auto differs = std::mismatch(held.begin(), held.end(), ids.begin(), ids.end());
    const auto common = std::min<std::int64_t>(differs.first - held.begin(),
                                               static_cast<std::int64_t>(ids.size()) - 1);
    session_.truncate(common);
    return read_with_progress(session_, std::span(ids).subspan(static_cast<std::size_t>(common)),
                              a_.common);
  }

  generate::GenerateResult write() {
    const bool streams = !a_.common.json;
    bool line_open = false;
    const Stopwatch watch;
    const auto before = static_cast<std::int64_t>(session_.ids().size());
    generate::GenerateResult result = session_.generate(generate_, [&](std::string_view text) {
      if (streams && !text.empty()) {
        print(text);
        line_open = text.back() != '\n';
      }
      return stop_signal() == 0;
    });
    const auto written = static_cast<std::int64_t>(result.ids.size());
    if (streams && line_open) print("\n");
    if (!streams) {
      Json out;
      out["text"] = result.text;
      out["prompt_tokens"] = before;
      out["generated_tokens"] = written;
      out["finish_reason"] = generate::to_string(result.finish_reason);
      print_json(out);
    }
    if (a_.common.verbose) {
      note(fmt::format("  {} tokens of context, {} written at {:.1f} tok/s",
                       grouped(before + written), grouped(written),
                       rate(written, watch.seconds())));
    }
    return result;
  }

  const ChatArguments& a_;
  text::ChatTemplate template_;
  Json variables_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  generate::GenerateSpec generate_;
  generate::Session session_;
  Json::Array messages_;
};

constexpr std::string_view kHelp =
    "  /clear   forget the conversation\n"
    "  /exit    leave (Ctrl-D too)\n"
    "  /help    this\n"
    "  Ctrl-C   stop the answer\n";

/// False when the conversation is over.
bool obey(std::string_view command, Conversation& conversation) {
  if (command == "/exit" || command == "/quit") return false;
  if (command == "/clear") {
    conversation.clear();
  } else if (command == "/help") {
    write_error(kHelp);
  } else {
    note(fmt::format("quire: unknown command {}; /help lists them", command));
  }
  return true;
}

int converse(Conversation& conversation) {
  const bool person = input_is_terminal();
  Lines lines;
  for (;;) {
    if (person) write_error("> ");
    const auto line = lines.next();
    if (!line) break;
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    if (line->front() == '/') {
      if (!obey(*line, conversation)) break;
      continue;
    }
    try {
      conversation.answer(*line);
    } catch (const ArgumentError& error) {
      if (!person) throw;  // too long for the context: a person may ask something shorter
      note(fmt::format("quire: {}; /clear begins anew", error.what()));
    }
    if (stop_signal() != 0) {
      if (!person) break;
      forget_stop_signal();
    }
  }
  if (person) write_error("\n");
  return stop_signal() != 0 ? signal_exit_code() : kOk;
}

}  // namespace

int chat(Arguments arguments) {
  ChatArguments a;
  Options options("chat", "MODEL",
                  "A conversation; lines are read from standard input. /help lists commands.");
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.group("Reading");
  options.text("--system", "S", a.system, "The system message");
  add_memory_choice(options, a.cache.memory);
  add_cache(options, a.common);
  add_sampling(options, a.sampling);
  add_compute(options, a.common);
  add_output(options, a.common);
  if (!options.parse(arguments)) return kOk;
  const DType kv = kv_type(a.common);
  const auto file = open_model(options.need(a.model, "MODEL"));
  const std::int64_t context = context_of(a.common, *file);
  static_cast<void>(generate_spec(a.sampling, *file));
  static_cast<void>(chat_template_of(*file, "quire run --raw continues text without one"));
  check_fits(*file, context, kv, a.cache.memory.ram.value_or(0));
  check_memory(a.cache, nullptr, *file, kv, context);
  catch_signals();
  apply(a.common);
  const Loaded loaded = load_model(file, a.common);
  Conversation conversation(a, *loaded.model, file->tokenizer_spec(), context);
  return converse(conversation);
}

}  // namespace quire::cli
