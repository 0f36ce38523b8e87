#include <cmath>

#include "quire/ops/math/arithmetic_kernel.h"
#include "quire/ops/math/numbers.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {
namespace {

template <class C>
C compute(Pointwise op, C a, C b, C number) {
  switch (op) {
    case Pointwise::kAdd:
      return a + b;
    case Pointwise::kSub:
      return a - b;
    case Pointwise::kMul:
      return a * b;
    case Pointwise::kDiv:
      return a / b;
    case Pointwise::kDivBackwardB:
      return -(a / b) / b;
    case Pointwise::kNeg:
      return -a;
    case Pointwise::kExp:
      return std::exp(a);
    case Pointwise::kAddNumber:
      return a + number;
    case Pointwise::kMulNumber:
      return a * number;
    case Pointwise::kClampMin:
      return a < number ? number : a;
    case Pointwise::kWhereAtLeast:
      return b >= number ? a : C(0);
    case Pointwise::kFill:
      return number;
  }
  return C(0);
}

// One run along the last dimension. The op is a template argument so that the loop holds nothing
// else; strides of one are told apart so that the compiler can widen them.
template <Pointwise op, class T>
void run(T* out, const T* a, const T* b, std::int64_t step_a, std::int64_t step_b,
         std::int64_t count, Compute<T> number) {
  const auto at = [&](std::int64_t i, std::int64_t sa, std::int64_t sb) {
    out[i] = narrow<T>(compute<Compute<T>>(op, widen(a[i * sa]), widen(b[i * sb]), number));
  };
  if (step_a == 1 && step_b == 1) {
    for (std::int64_t i = 0; i < count; ++i) at(i, 1, 1);
  } else if (step_a == 1 && step_b == 0) {
    for (std::int64_t i = 0; i < count; ++i) at(i, 1, 0);
  } else {
    for (std::int64_t i = 0; i < count; ++i) at(i, step_a, step_b);
  }
}

template <Pointwise op, class T>
void walk(const Arithmetic& args, std::int64_t begin, std::int64_t end) {
  const std::size_t rank = args.size.size();
  std::vector<std::int64_t> at(rank);
  std::int64_t rest = begin, from_a = 0, from_b = 0;
  for (std::size_t d = rank; d-- > 0;) {
    at[d] = rest % args.size[d];
    rest /= args.size[d];
    from_a += at[d] * args.a_stride[d];
    from_b += at[d] * args.b_stride[d];
  }
  const std::size_t last = rank - 1;
  const auto number = static_cast<Compute<T>>(args.number);
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t count = std::min(end - i, args.size[last] - at[last]);
    run<op, T>(static_cast<T*>(args.out) + i, a + from_a, b + from_b, args.a_stride[last],
               args.b_stride[last], count, number);
    i += count;
    at[last] += count;
    from_a += count * args.a_stride[last];
    from_b += count * args.b_stride[last];
    for (std::size_t d = last; d > 0 && at[d] == args.size[d]; --d) {
      from_a += args.a_stride[d - 1] - at[d] * args.a_stride[d];
      from_b += args.b_stride[d - 1] - at[d] * args.b_stride[d];
      at[d] = 0;
      ++at[d - 1];
    }
  }
}

template <Pointwise op>
void of_all_types(const Arithmetic& args, std::int64_t count) {
  const std::int64_t work = op == Pointwise::kExp ? 8 : 1;
  with_floating(args.dtype, [&](auto tag) {
    for_rows(count, work, [&](std::int64_t begin, std::int64_t end) {
      walk<op, decltype(tag)>(args, begin, end);
    });
  });
}

}  // namespace

void arithmetic_cpu(const Arithmetic& args) {
  std::int64_t count = 1;
  for (const std::int64_t size : args.size) count *= size;
  if (count == 0) return;
  switch (args.op) {
    case Pointwise::kAdd:
      return of_all_types<Pointwise::kAdd>(args, count);
    case Pointwise::kSub:
      return of_all_types<Pointwise::kSub>(args, count);
    case Pointwise::kMul:
      return of_all_types<Pointwise::kMul>(args, count);
    case Pointwise::kDiv:
      return of_all_types<Pointwise::kDiv>(args, count);
    case Pointwise::kDivBackwardB:
      return of_all_types<Pointwise::kDivBackwardB>(args, count);
    case Pointwise::kNeg:
      return of_all_types<Pointwise::kNeg>(args, count);
    case Pointwise::kExp:
      return of_all_types<Pointwise::kExp>(args, count);
    case Pointwise::kAddNumber:
      return of_all_types<Pointwise::kAddNumber>(args, count);
    case Pointwise::kMulNumber:
      return of_all_types<Pointwise::kMulNumber>(args, count);
    case Pointwise::kClampMin:
      return of_all_types<Pointwise::kClampMin>(args, count);
    case Pointwise::kWhereAtLeast:
      return of_all_types<Pointwise::kWhereAtLeast>(args, count);
    case Pointwise::kFill:
      return of_all_types<Pointwise::kFill>(args, count);
  }
}

}  // namespace quire::kernel
