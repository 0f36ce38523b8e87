#include "quire/tensor/dims.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "quire/base/error.h"
#include "tests/support/message_of.h"

namespace quire {
namespace {

using test::message_of;

Tensor sized(Shape shape) { return Tensor::empty(std::move(shape), DType::kF32); }

TEST(Dims, ReadsSizesOffNames) {
  const Tensor src_ND = sized({4, 7}), index_N = sized({4}), out_MD = sized({9, 7});
  const Dims dims = QUIRE_DIMS(src_ND, index_N, out_MD);
  EXPECT_EQ(dims['N'], 4);
  EXPECT_EQ(dims['D'], 7);
  EXPECT_EQ(dims['M'], 9);
}

TEST(Dims, NamesBothTensorsThatDisagree) {
  const Tensor src_ND = sized({4, 7}), index_N = sized({5});
  EXPECT_EQ(message_of([&] { QUIRE_DIMS(src_ND, index_N); }),
            "src_ND: N is 4, but index_N has N = 5");
  EXPECT_EQ(message_of([&] { QUIRE_DIMS(index_N, src_ND); }),
            "index_N: N is 5, but src_ND has N = 4");
}

TEST(Dims, ChecksRank) {
  const Tensor src_ND = sized({4, 7, 1});
  EXPECT_EQ(message_of([&] { QUIRE_DIMS(src_ND); }), "src_ND: rank is 3, expected 2");
}

TEST(Dims, ALetterTwiceIsASquare) {
  const Tensor square_DD = sized({3, 3}), oblong_DD = sized({3, 4});
  EXPECT_EQ(QUIRE_DIMS(square_DD)['D'], 3);
  EXPECT_EQ(message_of([&] { QUIRE_DIMS(oblong_DD); }),
            "oblong_DD: D is 3, but oblong_DD has D = 4");
}

TEST(Dims, SizeZeroIsASize) {
  const Tensor x_N = sized({0}), y_N = sized({1});
  EXPECT_EQ(QUIRE_DIMS(x_N)['N'], 0);
  EXPECT_EQ(message_of([&] { QUIRE_DIMS(x_N, y_N); }), "x_N: N is 0, but y_N has N = 1");
}

TEST(Dims, TakesMembersAndEightTensors) {
  struct {
    Tensor out_NHU = sized({2, 3, 5});
  } result;
  const Tensor a_A = sized({1}), b_B = sized({2}), c_C = sized({3}), d_D = sized({4}),
               e_E = sized({5}), f_F = sized({6}), g_G = sized({7});
  const Dims dims = QUIRE_DIMS(a_A, b_B, c_C, d_D, e_E, f_F, g_G, result.out_NHU);
  EXPECT_EQ(dims['A'] + dims['B'] + dims['C'] + dims['D'], 10);
  EXPECT_EQ(dims['E'] + dims['F'] + dims['G'], 18);
  EXPECT_EQ(dims['U'], 5);
}

TEST(Dims, AnUnboundLetterIsAnError) {
  const Tensor x_N = sized({2});
  const Dims dims = QUIRE_DIMS(x_N);
  EXPECT_EQ(message_of([&] { (void)dims['H']; }), "no tensor has the letter H");
  EXPECT_EQ(message_of([&] { (void)dims['h']; }), "Dims: 'h' is not a letter from A to Z");
}

TEST(Dims, BindComparesPlainArguments) {
  const Tensor q_NHK = sized({2, 3, 4});
  Dims dims = QUIRE_DIMS(q_NHK);
  dims.bind('H', 3, "spec.heads");
  dims.bind('G', 1, "spec.groups");
  EXPECT_EQ(dims['G'], 1);
  EXPECT_EQ(message_of([&] { dims.bind('H', 6, "spec.heads"); }),
            "q_NHK: H is 3, but spec.heads has H = 6");
  EXPECT_EQ(message_of([&] { dims.bind('E', -1, "experts"); }),
            "experts: E is -1, which is negative");
}

TEST(Dims, ANameWithoutLettersIsAnError) {
  const Tensor plain = sized({2}), lower_n = sized({2});
  EXPECT_THAT(message_of([&] { QUIRE_DIMS(plain); }),
              testing::HasSubstr("plain: the name ends in no letters"));
  EXPECT_EQ(message_of([&] { QUIRE_DIMS(lower_n); }), "lower_n: 'n' is not a letter from A to Z");
}

}  // namespace
}  // namespace quire
