#include "quire/cache/tier_file.h"

#include <cstring>
#include <utility>
#include <vector>

namespace quire::cache {
namespace {

constexpr std::array<char, 8> kMagic = {'Q', 'U', 'I', 'R', 'E', 'P', 'G', '\n'};
constexpr std::uint32_t kVersion = 1, kByteOrder = 0x01020304;

template <class T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace

/// As it lies in the file. `own` is the checksum of what stands before it.
struct TierFile::Header {
  std::array<char, 8> magic;
  std::uint32_t version, byte_order;
  Hash128 tier, format;
  RecordKey key;
  std::int64_t bytes;
  Hash128 sum;
  std::uint64_t own;
};

TierFile::TierFile(std::unique_ptr<ScratchFile> file, const Hash128& tier, const Hash128& format,
                   std::int64_t payload_bytes, std::chrono::milliseconds deadline)
    : file_(std::move(file), header_bytes() + payload_bytes, deadline),
      tier_(tier),
      format_(format),
      payload_bytes_(payload_bytes) {}

TierFile::~TierFile() = default;

std::int64_t TierFile::header_bytes() {
  static_assert(sizeof(Header) == 96, "as it lies in the file");
  return sizeof(Header);
}

TierFile::Header TierFile::header_of(const TierRecord& record) const {
  Header header{kMagic,     kVersion,       kByteOrder, tier_, format_,
                record.key, payload_bytes_, record.sum, 0};
  header.own = checksum(bytes_of(header).first(offsetof(Header, own))).low;
  return header;
}

namespace {

std::vector<std::int64_t> places_of(std::span<const TierRecord> records) {
  std::vector<std::int64_t> out;
  out.reserve(records.size());
  for (const TierRecord& record : records) out.push_back(record.place);
  return out;
}

/// Calls f(part, its place in `payload`) for each that is not empty.
template <class Bytes, class F>
void each_part(const TierRecord& record, std::span<Bytes> payload, F&& f) {
  for (const std::span<std::byte> part : record.parts) {
    if (!part.empty()) f(part, payload.first(part.size()));
    payload = payload.subspan(part.size());
  }
}

}  // namespace

void TierFile::write(std::span<TierRecord> records) {
  const auto fill = [&](std::size_t i, std::span<std::byte> bytes) {
    TierRecord& record = records[i];
    const auto payload = bytes.subspan(sizeof(Header));
    each_part(record, payload, [](std::span<std::byte> part, std::span<std::byte> to) {
      std::memcpy(to.data(), part.data(), part.size());
    });
    record.sum = checksum(payload);
    const Header header = header_of(record);
    std::memcpy(bytes.data(), &header, sizeof header);
  };
  const auto done = [&](std::size_t i, std::span<const std::byte>, int error) {
    records[i].error = error;
    records[i].fate = error == 0 ? TierRecord::Fate::kWhole : TierRecord::Fate::kFailed;
  };
  file_.write(places_of(records), fill, done);
}

void TierFile::read(std::span<TierRecord> records) {
  const auto done = [&](std::size_t i, std::span<const std::byte> bytes, int error) {
    TierRecord& record = records[i];
    record.error = error;
    record.fate = TierRecord::Fate::kFailed;
    if (error != 0) return;
    // Every byte of the header must be what this record's header is.
    const Header expected = header_of(record);
    const auto payload = bytes.subspan(sizeof(Header));
    record.fate = TierRecord::Fate::kWrong;
    if (std::memcmp(bytes.data(), &expected, sizeof expected) != 0 ||
        checksum(payload) != record.sum)
      return;
    record.fate = TierRecord::Fate::kWhole;
    each_part(record, payload, [](std::span<std::byte> part, std::span<const std::byte> from) {
      std::memcpy(part.data(), from.data(), part.size());
    });
  };
  file_.read(places_of(records), done);
}

}  // namespace quire::cache
