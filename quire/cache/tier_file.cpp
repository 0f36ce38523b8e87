#include "quire/cache/tier_file.h"

#include <cerrno>
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
                   std::int64_t payload_bytes)
    : file_(std::move(file)), tier_(tier), format_(format), payload_bytes_(payload_bytes) {}

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

template <class Header>
std::vector<Transfer> transfers_of(std::span<TierRecord> records, std::vector<Header>& headers,
                                   std::int64_t record_bytes) {
  std::vector<Transfer> out;
  out.reserve(records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    const auto& parts = records[i].parts;
    out.push_back({static_cast<std::uint64_t>(records[i].place * record_bytes),
                   {bytes_of(headers[i]), parts[0], parts[1], parts[2]},
                   0});
  }
  return out;
}

Hash128 sum_of(const TierRecord& record) {
  const std::array<std::span<const std::byte>, 3> parts = {record.parts[0], record.parts[1],
                                                           record.parts[2]};
  return checksum(parts);
}

}  // namespace

void TierFile::write(std::span<TierRecord> records) {
  std::vector<Header> headers;
  headers.reserve(records.size());
  for (TierRecord& record : records) {
    record.sum = sum_of(record);
    headers.push_back(header_of(record));
  }
  std::vector<Transfer> transfers = transfers_of(records, headers, record_bytes());
  file_->write(transfers);
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].error = transfers[i].error;
    records[i].fate =
        transfers[i].error == 0 ? TierRecord::Fate::kWhole : TierRecord::Fate::kFailed;
  }
}

void TierFile::read(std::span<TierRecord> records) {
  std::vector<Header> headers(records.size());
  std::vector<Transfer> transfers = transfers_of(records, headers, record_bytes());
  file_->read(transfers);
  for (std::size_t i = 0; i < records.size(); ++i) {
    TierRecord& record = records[i];
    record.error = transfers[i].error;
    record.fate = TierRecord::Fate::kFailed;
    if (record.error != 0) continue;
    // Every byte of the header must be what this record's header is.
    const Header expected = header_of(record);
    const bool is_same =
        std::memcmp(&headers[i], &expected, sizeof expected) == 0 && sum_of(record) == record.sum;
    record.fate = is_same ? TierRecord::Fate::kWhole : TierRecord::Fate::kWrong;
  }
}

}  // namespace quire::cache
