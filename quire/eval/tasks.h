#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/eval/candidate.h"
#include "quire/eval/reading.h"
#include "quire/model/model.h"
#include "quire/text/tokenizer.h"

namespace quire::eval {

/// Something that only the document knows: the tokens that ask for it, and the tokens that follow
/// in the right answer.
struct Question {
  std::vector<std::int32_t> ask, answer;
  double depth = 0;  // where in the document the answer stands, 0 to 1
};

/// A document and what is asked of it, each question by itself.
struct TaskDocument {
  std::vector<std::int32_t> ids;
  std::vector<Question> questions;
};

/// A kind of question over several documents; each question is a cell of the task.
struct Task {
  std::string name;
  std::vector<TaskDocument> documents;
};

/// How many cells, and how long their documents are.
struct TaskSpec {
  std::int64_t depths = 10;    // at (i + ½) / depths of the document
  std::int64_t keys = 5;       // at each depth
  std::int64_t tokens = 2048;  // of a document, what is hidden in it included
  std::uint64_t seed = 0;
};

/// "passkey": a key of five digits in a line of its own between the lines of a text, asked for in a
/// form that only has to be completed; documents that share their beginning stand together.
/// `filler` is the text; the same arguments give the same cells. Throws ArgumentError for counts
/// under 1 or over 1000, or a filler that is shorter than spec.tokens.
Task passkey_task(const text::Tokenizer& tokenizer, std::span<const std::int32_t> filler,
                  const TaskSpec& spec = {});

/// "copy": the first 32 tokens of a span of the text itself, to be continued by its next 10. One
/// document: the first spec.tokens of the filler. Needs no training on instructions. Throws as
/// passkey_task does, and for a document under 64 tokens.
Task copy_task(const text::Tokenizer& tokenizer, std::span<const std::int32_t> filler,
               const TaskSpec& spec = {});

/// The part of an answer's tokens that a cell needs to pass: each must be the likeliest after the
/// right ones before it.
inline constexpr double kPassing = 0.9;
/// Fewer cells than these support no claim.
inline constexpr std::int64_t kFewestCells = 30;

/// How one cache did.
struct TaskScore {
  std::string task, cache, budget;
  std::int64_t passed = 0;
  std::int64_t cells = 0;    // that count: those that the full cache passes
  std::int64_t dropped = 0;  // that do not: those it fails, or (known) answers without the document
  std::int64_t known = 0;    // of the dropped ones
};

/// Asks every cache. A document is read once, exactly, into a full cache; a cell counts when the
/// full cache passes it and the model does not pass it without the document. Each candidate is
/// given the document (SharedReading), ends its reading, and gets the tokens of each question one
/// by one, in lockstep with others; what it was asked is taken back before the next. Returns a
/// score for each candidate in their order. `progress` counts tokens of task_work(); nothing is
/// returned when it stopped. Throws ArgumentError when a document does not fit the model, and as
/// caches do.
std::optional<std::vector<TaskScore>> run_task(const model::Model& model, const Task& task,
                                               DType kv, std::span<const Candidate> candidates,
                                               const Progress& progress = {});

/// What run_task() counts up to.
std::int64_t task_work(const Task& task, std::size_t candidates);

}  // namespace quire::eval
