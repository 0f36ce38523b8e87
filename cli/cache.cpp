// quire cache: saved caches.

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/failure.h"
#include "cli/figures.h"
#include "cli/model_name.h"
#include "cli/output.h"
#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "quire/cache/saved.h"

namespace quire::cli {
namespace {

/// Whether a file is a saved cache, or once was one: whole or not.
bool begins_as_saved_cache(const std::string& path) {
  const auto file = file_ops().open(path);
  std::string magic(std::min<std::uint64_t>(file->size(), 8), ' ');
  file->read_at(0, std::as_writable_bytes(std::span(magic)));
  return magic == "QUIREKV\n";
}

/// A file of the folder, and what it says of itself; nothing where it is no saved cache that this
/// program can read.
struct Row {
  FolderEntry entry;
  std::optional<cache::SavedCacheInfo> info;
  bool is_foreign = false;
};

/// Removes what killed programs left of caches that they were saving; returns how many files.
std::int64_t remove_leftovers() {
  std::size_t removed = 0;
  for (const FolderEntry& entry : file_ops().list(saved_caches_folder())) {
    const std::string target = target_of_temporary(entry.name);
    if (!target.empty())
      removed += file_ops().remove_leftovers(saved_caches_folder() + "/" + target);
  }
  return static_cast<std::int64_t>(removed);
}

/// The files of the folder, but for caches that are being saved.
std::vector<FolderEntry> finished_files() {
  std::vector<FolderEntry> out = file_ops().list(saved_caches_folder());
  const auto is_temporary = [](const FolderEntry& e) {
    return !target_of_temporary(e.name).empty();
  };
  out.erase(std::remove_if(out.begin(), out.end(), is_temporary), out.end());
  return out;
}

std::vector<Row> rows() {
  std::vector<Row> out;
  for (const FolderEntry& entry : finished_files()) {
    Row row{entry, {}, false};
    const std::string path = saved_caches_folder() + "/" + entry.name;
    try {
      row.is_foreign = !begins_as_saved_cache(path);
      if (!row.is_foreign) row.info = cache::SavedCache(path).info();
    } catch (const Error&) {  // verify tells what is wrong with it
    }
    out.push_back(std::move(row));
  }
  return out;
}

std::string time_text(std::int64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm utc{};
  char text[32];
  if (gmtime_r(&time, &utc) == nullptr) return "?";
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &utc)};
}

int list(const Common& common) {
  Json::Array objects, unreadable;
  std::string table;
  std::int64_t foreign = 0;
  const std::int64_t leftovers = remove_leftovers();
  for (const Row& row : rows()) {
    if (row.is_foreign) ++foreign;
    if (!row.info) {
      if (!row.is_foreign) unreadable.push_back(row.entry.name);
      continue;
    }
    const cache::SavedCacheInfo& info = *row.info;
    Json object;
    object["file"] = row.entry.name;
    object["model"] = info.model;
    object["tokens"] = info.tokens;
    object["bytes"] = info.bytes;
    object["created"] = info.created;
    object["pinned"] = !row.entry.is_writable;
    object["kv"] = kv_name(info.kv);
    object["isa"] = info.isa;
    object["cache"] = info.form;
    objects.push_back(std::move(object));
    table += fmt::format("{:<24}{:>10} tokens{:>12}  {:<5}{:<8}{}  {}{}\n",
                         harmless(row.entry.name), grouped(info.tokens), bytes_text(info.bytes),
                         kv_name(info.kv), harmless(info.form), time_text(info.created),
                         harmless(info.model), row.entry.is_writable ? "" : "  (pinned)");
  }
  if (common.json) {
    Json out;
    out["rows"] = std::move(objects);
    out["foreign"] = foreign;
    out["unreadable"] = std::move(unreadable);
    out["leftovers"] = leftovers;
    print_json(out);
  } else {
    print(table);
    for (const Json& name : unreadable)
      note(fmt::format("quire: {} cannot be read; quire cache verify says why",
                       harmless(name.as_string())));
    if (foreign > 0 && !common.quiet)
      note(fmt::format("quire: {} other files in {}", foreign, saved_caches_folder()));
    if (leftovers > 0 && !common.quiet)
      note(fmt::format("quire: removed {} unfinished files that killed programs left", leftovers));
  }
  return kOk;
}

/// All saved caches of the folder when none is named. Each that is damaged is told; the first one's
/// exit code is the command's.
int verify(std::vector<std::string> names, const Common& common) {
  std::int64_t foreign = 0;
  int code = kOk;
  Json::Array checked, failed;
  const auto attempt = [&](const std::string& name, auto&& check) {
    try {
      check();
    } catch (const OutputClosed&) {
      throw;
    } catch (...) {
      const int of_this = report_failure(common.json ? FailureForm::kJson : FailureForm::kLine);
      if (code == kOk) code = of_this;
      failed.push_back(name);
    }
  };
  if (names.empty()) {
    for (const FolderEntry& entry : finished_files()) {
      const std::string path = saved_caches_folder() + "/" + entry.name;
      attempt(path, [&] {
        if (begins_as_saved_cache(path)) {
          names.push_back(path);
        } else {
          ++foreign;
        }
      });
    }
  }
  for (const std::string& name : names) {
    attempt(name, [&] {
      const cache::SavedCache saved(saved_cache_path(name));
      saved.verify();
      if (!common.json)
        print(fmt::format("{}: {} tokens, whole\n", name, grouped(saved.info().tokens)));
      checked.push_back(name);
    });
  }
  if (common.json) {
    Json out;
    out["verified"] = std::move(checked);
    out["failed"] = std::move(failed);
    out["foreign"] = foreign;
    print_json(out);
  } else if (foreign > 0) {
    note(fmt::format("quire: {} other files in {}", foreign, saved_caches_folder()));
  }
  return code;
}

/// Only files that are saved caches, or that once were: nothing else is removed by mistake.
void check_removable(const std::string& name, const std::string& path) {
  for (const FolderEntry& entry : file_ops().list(path.substr(0, path.rfind('/')))) {
    if (path.substr(path.rfind('/') + 1) == entry.name && !entry.is_writable)
      throw ArgumentError(
          fmt::format("{} is pinned: its file is write-protected; chmod u+w {} "
                      "first",
                      name, path));
  }
  if (!begins_as_saved_cache(path))
    throw FormatError(path, "is no saved cache, and stays; it does not begin with QUIREKV");
}

int remove(const std::vector<std::string>& names, const Common& common) {
  QUIRE_CHECK(!names.empty(), "which saved cache? (quire cache list)");
  for (const std::string& name : names) check_removable(name, saved_cache_path(name));
  Json::Array removed;
  for (const std::string& name : names) {
    file_ops().remove(saved_cache_path(name));
    file_ops().remove_leftovers(saved_cache_path(name));
    removed.push_back(name);
  }
  if (common.json) {
    Json out;
    out["removed"] = std::move(removed);
    print_json(out);
  }
  return kOk;
}

}  // namespace

int cache(Arguments arguments) {
  Common common;
  std::optional<std::string> action;
  std::vector<std::string> names;
  Options options(
      "cache", "list | verify [NAME]… | rm NAME…",
      "Caches that quire run --save-cache left in ~/.cache/quire/caches, or at a path.");
  options.argument("ACTION", action, "list, verify or rm");
  options.arguments("NAME", names, "A name in that folder, or a path with a slash");
  options.group("Output");
  options.flag("--json", common.json, "Print one JSON object (docs/json.md)");
  options.flag("--quiet", common.quiet, "No count of the files that are no saved caches");
  if (!options.parse(arguments)) return kOk;
  const std::string& what = options.need(action, "list, verify or rm");
  if (what == "list") {
    QUIRE_CHECK(names.empty(), "quire cache list takes no name");
    return list(common);
  }
  if (what == "verify") return verify(std::move(names), common);
  if (what == "rm") return remove(names, common);
  throw ArgumentError(fmt::format("'{}' is no action on saved caches; list, verify or rm", what));
}

}  // namespace quire::cli
