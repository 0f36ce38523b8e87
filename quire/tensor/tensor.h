#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/dtype.h"

namespace quire {

struct Half;
struct BFloat16;
class Storage;

/// Where a tensor's memory lies.
enum class Device : std::uint8_t { kCpu, kCuda };

/// The sizes of a tensor, outermost first.
using Shape = std::vector<std::int64_t>;

/// The dtype whose elements are of C++ type T, as in dtype_of<float>. Only types that are a dtype's
/// have one.
template <class T>
inline constexpr DType dtype_of =
    [] { static_assert(sizeof(T) == 0, "not the type of a dtype"); }();
template <>
inline constexpr DType dtype_of<double> = DType::kF64;
template <>
inline constexpr DType dtype_of<float> = DType::kF32;
template <>
inline constexpr DType dtype_of<BFloat16> = DType::kBF16;
template <>
inline constexpr DType dtype_of<Half> = DType::kF16;
template <>
inline constexpr DType dtype_of<std::int64_t> = DType::kI64;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::kI32;
template <>
inline constexpr DType dtype_of<std::int16_t> = DType::kI16;
template <>
inline constexpr DType dtype_of<std::int8_t> = DType::kI8;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::kU8;
template <>
inline constexpr DType dtype_of<bool> = DType::kBool;

/// dtype, shape, strides, device and shared storage (storage.h). Copying a Tensor shares its
/// storage; views (slice, transpose, expand, view) never copy. Const-ness is of the handle, as with
/// a shared_ptr. One handle may be read from several threads; writing needs the caller's care.
class Tensor {
 public:
  /// An empty tensor: rank 1, size 0, f32. Allocates no memory for elements.
  Tensor();

  /// Uninitialised memory (filled with 0xFF bytes when QUIRE_POISON=1 is in the environment).
  /// Throws ArgumentError for negative sizes or a byte count over 2^63 (sizes of 0 count as 1 in
  /// this check, so that strides fit too); OutOfMemory; DeviceError where the device is absent.
  static Tensor empty(Shape shape, DType dtype, Device device = Device::kCpu);
  static Tensor zeros(Shape shape, DType dtype, Device device = Device::kCpu);

  /// Wraps memory that `owner` keeps alive (may be null when the caller does); row-major
  /// contiguous. Throws ArgumentError as `empty` does, and for a null pointer to elements.
  static Tensor wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner = nullptr);

  /// A tensor with a copy of these values (row-major). T must be the C++ type of a dtype.
  /// Throws ArgumentError when the numbers of elements differ.
  template <class T>
  static Tensor of(std::span<const T> values, Shape shape) {
    return of(dtype_of<T>, values.data(), static_cast<std::int64_t>(values.size()),
              std::move(shape));
  }

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  const std::vector<std::int64_t>& strides() const { return strides_; }  // in elements
  int rank() const { return static_cast<int>(shape_.size()); }
  std::int64_t size(int dim) const;  // negative dims count from the end; throws ArgumentError
  std::int64_t elements() const;     // product of the sizes; 1 for rank 0
  std::int64_t bytes() const;        // elements times size_of(dtype)
  bool contiguous() const;           // row-major without gaps; strides of sizes 0 and 1 are free

  /// The first element, as const or mutable T; T must match the dtype (void: any), or ArgumentError
  /// is thrown. Null when there are no elements. The mutable form counts a version.
  template <class T>
  const T* data() const {
    if constexpr (!std::is_void_v<T>) check_type(dtype_of<T>);
    return static_cast<const T*>(first());
  }
  template <class T>
  T* mutable_data() {
    if constexpr (!std::is_void_v<T>) check_type(dtype_of<T>);
    return static_cast<T*>(mutable_first());
  }
  /// The number of mutable accesses to the storage, through any tensor that shares it.
  std::uint64_t version() const;

  /// Views. All throw ArgumentError, naming the dimension and both sizes. Negative dims count from
  /// the end.
  Tensor slice(int dim, std::int64_t begin, std::int64_t end) const;
  Tensor transpose(int a, int b) const;
  Tensor expand(
      Shape shape) const;  // size-1 dims repeat with stride 0, also in front; -1 keeps a size
  Tensor view(Shape shape) const;  // contiguous only; one size may be -1

  /// Row-major copy, or the tensor itself when it already is.
  Tensor contiguous_copy() const;

  /// A row-major copy in another dtype, never sharing storage. Floating types convert exactly or
  /// round once, to nearest even. Integers and bool convert to floating types likewise, and to each
  /// other when every value fits. Throws ArgumentError for floating to integer, and for a value
  /// that does not fit (with the value).
  Tensor to(DType dtype) const;

 private:
  static Tensor of(DType dtype, const void* values, std::int64_t count, Shape shape);
  void check_type(DType asked) const {
    if (asked != dtype_) wrong_type(asked);
  }
  [[noreturn]] void wrong_type(DType asked) const;
  const void* first() const;
  void* mutable_first();

  std::shared_ptr<Storage> storage_;
  std::int64_t offset_bytes_ = 0;
  Shape shape_;
  std::vector<std::int64_t> strides_;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kCpu;
};

/// "[2, 3, 4]"
std::string to_string(const Shape& shape);

/// Bytes in all living Storages now (wrapped memory not counted), and the most there ever were
/// since the last reset: for tests of "no hidden memory".
std::int64_t allocated_bytes();
std::int64_t peak_allocated_bytes();
void reset_peak_allocated_bytes();

/// Bytes of freed blocks that wait to be used again (at most 128 MiB; not in allocated_bytes), and
/// their return to the operating system.
std::int64_t cached_bytes();
void release_cached_bytes();

}  // namespace quire
