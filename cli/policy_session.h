#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/paged_session.h"
#include "quire/base/json.h"
#include "quire/generate/session.h"
#include "quire/model/model.h"

namespace quire::cli {

/// What --cache takes: the exact caches, then the policies that leave something out.
std::vector<std::string> cache_kinds();
/// Whether --cache names a policy.
bool is_policy(const CacheChoice& choice);
/// Throws ArgumentError for a policy without a budget, with an option that it does not have, or
/// with a number of tokens under its floor.
void check_policy(const CacheChoice& choice);

/// A session whose cache runs the policy that --cache names, and where it came from.
struct PolicySession {
  generate::Session session;
  double reopened = 0;  // seconds that loading the saved cache took
};

/// Under a memory limit it has room for `tokens`, else for `context`. `saved` may be null; else the
/// session holds its tokens, and has ended its reading. Throws FormatError where the file was made
/// for another cache, model or mode, or is damaged.
PolicySession make_policy_session(const model::Model& model,
                                  std::shared_ptr<const text::Tokenizer> tokenizer,
                                  const CacheChoice& choice, const cache::SavedCache* saved,
                                  DType kv, std::int64_t context, std::int64_t tokens);

/// Saves the session, whose reading has just ended, as --save-cache asks; nothing without it.
/// Returns the seconds it took.
double save_policy(const CacheChoice& choice, generate::Session& session, const model::Model& model,
                   DType kv);

/// The figures of the cache of that kind for --json: policy, type, tokens, context, bytes_read …
Json policy_json(generate::Session& session, const std::string& kind, DType kv);

}  // namespace quire::cli
