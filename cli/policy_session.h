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

/// A session whose cache runs the policy that --cache names; under a memory limit it has room for
/// `tokens`, else for `context`.
generate::Session make_policy_session(const model::Model& model,
                                      std::shared_ptr<const text::Tokenizer> tokenizer,
                                      const CacheChoice& choice, DType kv, std::int64_t context,
                                      std::int64_t tokens);

/// The figures of the cache of that kind for --json: policy, type, tokens, context, bytes_read …
Json policy_json(generate::Session& session, const std::string& kind, DType kv);

}  // namespace quire::cli
