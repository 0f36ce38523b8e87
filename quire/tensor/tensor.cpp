#include "quire/tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/tensor/convert.h"
#include "quire/tensor/storage.h"

namespace quire {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

// Also bounds what the strides can be: a size of 0 counts as 1.
void check_shape(const Shape& shape, DType dtype) {
  QUIRE_CHECK(size_of(dtype) > 0, to_string(dtype),
              " is a form of stored keys and values; a tensor cannot have it");
  Checked bytes = size_of(dtype);
  for (const std::int64_t n : shape) {
    QUIRE_CHECK(n >= 0, "shape ", to_string(shape), " has the negative size ", n);
    bytes = bytes * Checked(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1)));
  }
  QUIRE_CHECK(bytes.at_most(static_cast<std::uint64_t>(kMost)), "shape ", to_string(shape), " of ",
              to_string(dtype), " has more than 2^63 bytes");
}

std::vector<std::int64_t> row_major(const Shape& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<std::int64_t>(shape[i], 1);
  }
  return strides;
}

std::int64_t product(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  return count;
}

std::size_t checked_dim(int dim, int rank, const char* where) {
  QUIRE_CHECK(dim >= -rank && dim < rank, where, ": dimension ", dim, " of a tensor of rank ",
              rank);
  return static_cast<std::size_t>(dim < 0 ? dim + rank : dim);
}

}  // namespace

Tensor::Tensor() : shape_{0}, strides_{1} {}

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  check_shape(shape, dtype);
  if (device != Device::kCpu) throw DeviceError("this build of Quire has no CUDA; use the CPU");
  Tensor out;
  out.dtype_ = dtype;
  out.strides_ = row_major(shape);
  out.shape_ = std::move(shape);
  out.storage_ = std::make_shared<Storage>(static_cast<std::size_t>(out.bytes()));
  return out;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor out = empty(std::move(shape), dtype, device);
  if (out.elements() > 0) {
    std::memset(out.mutable_first(), 0, static_cast<std::size_t>(out.bytes()));
  }
  return out;
}

Tensor Tensor::wrap(void* data, Shape shape, DType dtype, std::shared_ptr<void> owner) {
  check_shape(shape, dtype);
  QUIRE_CHECK(data != nullptr || product(shape) == 0, "wrap: a null pointer for shape ",
              to_string(shape));
  Tensor out;
  out.dtype_ = dtype;
  out.strides_ = row_major(shape);
  out.shape_ = std::move(shape);
  out.storage_ = std::make_shared<Storage>(data, std::move(owner));
  return out;
}

Tensor Tensor::of(DType dtype, const void* values, std::int64_t count, Shape shape) {
  check_shape(shape, dtype);
  QUIRE_CHECK(count == product(shape), "of: ", count, " values for shape ", to_string(shape));
  Tensor out = empty(std::move(shape), dtype);
  if (count > 0) std::memcpy(out.mutable_first(), values, static_cast<std::size_t>(out.bytes()));
  return out;
}

std::int64_t Tensor::size(int dim) const { return shape_[checked_dim(dim, rank(), "size")]; }

std::int64_t Tensor::elements() const { return product(shape_); }

std::int64_t Tensor::bytes() const {
  return elements() * static_cast<std::int64_t>(size_of(dtype_));
}

bool Tensor::contiguous() const {
  std::int64_t stride = 1;
  for (std::size_t i = shape_.size(); i-- > 0;) {
    if (shape_[i] == 0) return true;
    if (shape_[i] != 1 && strides_[i] != stride) return elements() == 0;
    stride *= shape_[i];
  }
  return true;
}

void Tensor::wrong_type(DType asked) const {
  throw ArgumentError(
      concat("the tensor is ", to_string(dtype_), ", but was read as ", to_string(asked)));
}

const void* Tensor::first() const {
  const std::byte* data = storage_ == nullptr ? nullptr : storage_->data();
  return data == nullptr ? nullptr : data + offset_bytes_;
}

void* Tensor::mutable_first() {
  std::byte* data = storage_ == nullptr ? nullptr : storage_->mutable_data();
  return data == nullptr ? nullptr : data + offset_bytes_;
}

std::uint64_t Tensor::version() const { return storage_ == nullptr ? 0 : storage_->version(); }

Tensor Tensor::slice(int dim, std::int64_t begin, std::int64_t end) const {
  const std::size_t d = checked_dim(dim, rank(), "slice");
  QUIRE_CHECK(0 <= begin && begin <= end && end <= shape_[d], "slice: [", begin, ", ", end,
              ") of dimension ", dim, ", whose size is ", shape_[d]);
  Tensor out = *this;
  out.shape_[d] = end - begin;
  // An empty slice may begin at the very end; its address is never used, so it stays where it was.
  if (end > begin) {
    out.offset_bytes_ += begin * strides_[d] * static_cast<std::int64_t>(size_of(dtype_));
  }
  return out;
}

Tensor Tensor::transpose(int a, int b) const {
  const std::size_t i = checked_dim(a, rank(), "transpose"),
                    j = checked_dim(b, rank(), "transpose");
  Tensor out = *this;
  std::swap(out.shape_[i], out.shape_[j]);
  std::swap(out.strides_[i], out.strides_[j]);
  return out;
}

Tensor Tensor::expand(Shape shape) const {
  QUIRE_CHECK(shape.size() >= shape_.size(), "expand: shape ", to_string(shape),
              " has a lower rank than ", to_string(shape_));
  const std::size_t front = shape.size() - shape_.size();
  std::vector<std::int64_t> strides(shape.size(), 0);
  for (std::size_t i = front; i < shape.size(); ++i) {
    const std::int64_t own = shape_[i - front];
    if (shape[i] == -1) shape[i] = own;
    if (shape[i] == own) {
      strides[i] = strides_[i - front];
      continue;
    }
    QUIRE_CHECK(own == 1, "expand: dimension ", std::uint64_t{i}, " is ", own,
                ", not 1, and cannot become ", shape[i]);
  }
  check_shape(shape, dtype_);
  Tensor out = *this;
  out.shape_ = std::move(shape);
  out.strides_ = std::move(strides);
  return out;
}

Tensor Tensor::view(Shape shape) const {
  QUIRE_CHECK(contiguous(), "view: the tensor ", to_string(shape_),
              " is not contiguous; use contiguous_copy()");
  std::int64_t* open = nullptr;
  for (std::int64_t& n : shape) {
    if (n != -1) continue;
    QUIRE_CHECK(open == nullptr, "view: more than one size is -1");
    open = &n;
  }
  if (open != nullptr) {
    *open = 1;
    check_shape(shape, dtype_);
    const std::int64_t rest = product(shape);
    *open = rest == 0 ? 0 : elements() / rest;
  }
  check_shape(shape, dtype_);
  QUIRE_CHECK(product(shape) == elements(), "view: shape ", to_string(shape), " has ",
              product(shape), " elements, but ", to_string(shape_), " has ", elements());
  Tensor out = *this;
  out.strides_ = row_major(shape);
  out.shape_ = std::move(shape);
  return out;
}

Tensor Tensor::contiguous_copy() const {
  if (contiguous()) return *this;
  Tensor out = empty(shape_, dtype_, device_);
  detail::gather_strided(static_cast<std::byte*>(out.mutable_first()),
                         static_cast<const std::byte*>(first()), size_of(dtype_), shape_, strides_);
  return out;
}

Tensor Tensor::to(DType dtype) const {
  const Tensor source = contiguous_copy();
  Tensor out = empty(shape_, dtype, device_);
  detail::convert(out.mutable_first(), dtype, source.first(), dtype_, elements());
  return out;
}

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    detail::append(out, shape[i]);
  }
  return out + "]";
}

}  // namespace quire
