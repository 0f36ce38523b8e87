#include "quire/ops/sequence/pack_sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

TEST(PackSequence, OTH_01_ByHandOnBothSides) {
  const Tensor start = index_of({0, 1, 1, 4}, {4});
  const Tensor x = tensor_of({1, 2, 3, 4, 5, 6, 7, 8, 9}, {3, 3}, DType::kF32);
  EXPECT_THAT(values(pack_sequence(x, start, PadSide::kRight)), ElementsAre(1, 7, 8, 9));
  EXPECT_THAT(values(pack_sequence(x, start, PadSide::kLeft)), ElementsAre(3, 7, 8, 9));
  const Tensor packed = tensor_of({1, 2, 3, 4}, {4}, DType::kF32);
  EXPECT_THAT(values(unpack_sequence(packed, start, 4, PadSide::kRight)),
              ElementsAre(1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 4, 0));
  EXPECT_THAT(values(unpack_sequence(packed, start, 4, PadSide::kLeft)),
              ElementsAre(0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 3, 4));
}

TEST(PackSequence, OTH_01_ExactThereAndBackInEveryDtype) {
  const Tensor start = index_of({0, 3, 10, 10, 15}, {5}).to(DType::kI32);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const PadSide side : {PadSide::kLeft, PadSide::kRight}) {
      const Tensor packed = random_tensor({15, 2, 3}, 1, dtype);
      const Tensor padded = unpack_sequence(packed, start, 7, side);
      EXPECT_EQ(padded.shape(), (Shape{4, 7, 2, 3}));
      EXPECT_EQ(values(pack_sequence(padded, start, side)), values(packed));
      const Tensor odd = padded.transpose(0, 1).contiguous_copy().transpose(0, 1);
      EXPECT_EQ(values(pack_sequence(odd, start, side)), values(packed));
    }
  }
}

TEST(PackSequence, OTH_01_EachIsTheBackwardOfTheOther) {
  const Tensor start = index_of({0, 2, 5}, {3});
  for (const PadSide side : {PadSide::kLeft, PadSide::kRight}) {
    const Tensor x = random_tensor({2, 4, 3}, 1), dpacked = random_tensor({5, 3}, 2);
    test::expect_gradients([&](const auto& in) { return pack_sequence(in[0], start, side); }, {x},
                           dpacked, {unpack_sequence(dpacked, start, 4, side)});
    const Tensor packed = random_tensor({5, 3}, 3), dpadded = random_tensor({2, 4, 3}, 4);
    test::expect_gradients([&](const auto& in) { return unpack_sequence(in[0], start, 4, side); },
                           {packed}, dpadded, {pack_sequence(dpadded, start, side)});
  }
}

TEST(PackSequence, NothingAndErrors) {
  const Tensor none = index_of({0}, {1}), x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_EQ(pack_sequence(Tensor::zeros({0, 3}, DType::kF32), none, PadSide::kLeft).shape(),
            (Shape{0}));
  EXPECT_THAT(
      [&] {
        (void)pack_sequence(x, index_of({0, 1, 5}, {3}), PadSide::kLeft);
      },
      ThrowsMessage<ArgumentError>("start_J[2] is 5, expected 1 to 1 + 3"));
  EXPECT_THROW((void)pack_sequence(x, index_of({1, 2, 3}, {3}), PadSide::kLeft), ArgumentError);
  EXPECT_THROW((void)pack_sequence(x, index_of({0, 2, 1}, {3}), PadSide::kLeft), ArgumentError);
  EXPECT_THROW((void)pack_sequence(x, index_of({0, 1}, {2}), PadSide::kLeft), ArgumentError);
  EXPECT_THROW((void)pack_sequence(x.slice(0, 0, 1).view({3}), none, PadSide::kLeft),
               ArgumentError);
  EXPECT_THROW((void)unpack_sequence(x, index_of({0, 1}, {2}), 3, PadSide::kLeft), ArgumentError);
  EXPECT_THROW((void)unpack_sequence(x, index_of({0, 2}, {2}), 1, PadSide::kLeft), ArgumentError);
  EXPECT_THROW((void)unpack_sequence(x, Tensor::zeros({2}, DType::kF32), 3, PadSide::kLeft),
               ArgumentError);
}

}  // namespace
}  // namespace quire
