#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "quire/generate/session.h"

namespace quire::generate {

/// What is told while answers are written; each may be empty. `question` counts from 0.
struct AnswerEvents {
  /// Text of an answer that became certain, perhaps none; once a token. It returns false to
  /// interrupt all answers.
  std::function<bool(std::size_t question, std::string_view text)> text;
  std::function<void(std::size_t question, const GenerateResult& result)> finished;
};

/// Answers several questions about what a session has read. Each answer has the ids that
/// Session::generate gives when a session of its own reads the same and then the question.
///
/// Over a PagedCache each is answered from a fork, all as one batch: the pages that they share are
/// read once a step for all. Over another cache one after another, each taken back before the next
/// (KvCache::truncate); a cache that leaves something out has ended its reading before.
///
/// document   it is not changed, but for what it had not caught up with
/// questions  ids that follow the document, at least one each
///
/// Keys that a disk lost are computed again, with the same bits; those of the document once for
/// all.
///
/// Of a pool that cannot hold all at once the first ones are answered first, and the others when
/// there is room.
///
/// Throws  ArgumentError for an empty question, one that the context cannot hold, and as
///         Session::generate does; OutOfMemory, naming the budget, when the pool
///         cannot hold a question and its answer even alone. Then no question was read.
///         IoError as PagedCache::append does, when a disk loses keys again and again.
/// Memory  pages for each question and its answer, logits of as many rows.
std::vector<GenerateResult> answer_each(Session& document,
                                        std::span<const std::vector<std::int32_t>> questions,
                                        const GenerateSpec& spec, const AnswerEvents& events = {});

}  // namespace quire::generate
