#include "quire/eval/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"

namespace quire::eval {
namespace {

using testing::HasSubstr;
using testing::Not;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

std::vector<PlotPanel> two_panels() {
  const PlotCurve window{"window", {{4e6, 0.02, "12.5%"}, {1e6, 0.2, "5%"}}};
  const PlotCurve full{"full", {{3e7, 0, ""}}};
  return {{"R", "bytes read", "KL", {window, full}}, {"S", "bytes stored", "KL", {window, full}}};
}

TEST(Plot, HasAxesCurvesLabelsAndOneLegend) {
  const std::string svg = plot_svg(two_panels());
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns="));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr(">bytes read</text>"));
  EXPECT_THAT(svg, HasSubstr(">bytes stored</text>"));
  EXPECT_EQ(count(svg, ">window</text>"), 1u) << "both panels share the legend";
  EXPECT_EQ(count(svg, ">12.5%</text>"), 2u);
  EXPECT_EQ(count(svg, ">5%</text>"), 2u);
  EXPECT_THAT(svg, HasSubstr("open mark: exactly 0"));
  EXPECT_EQ(svg, plot_svg(two_panels())) << "the same bytes";
}

TEST(Plot, CurvesGoFromLeftToRight) {
  const std::string svg = plot_svg({two_panels()[0]});
  const std::size_t path = svg.find("<path d=\"M");
  ASSERT_NE(path, std::string::npos);
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  ASSERT_EQ(std::sscanf(svg.c_str() + path, "<path d=\"M%lf %lfL%lf %lf", &x1, &y1, &x2, &y2), 4);
  EXPECT_LT(x1, x2) << "points are joined in the order of x";
  EXPECT_LT(y1, y2) << "the larger KL stands higher";
}

TEST(Plot, LogarithmicAxesGiveEqualStepsToEqualFactors) {
  const PlotCurve curve{"c", {{1e3, 1, ""}, {1e4, 0.1, ""}, {1e5, 0.01, ""}}};
  const std::string svg = plot_svg({{"t", "x", "y", {curve}}});
  double p[6];
  const std::size_t path = svg.find("<path d=\"M");
  ASSERT_EQ(std::sscanf(svg.c_str() + path, "<path d=\"M%lf %lfL%lf %lfL%lf %lf", &p[0], &p[1],
                        &p[2], &p[3], &p[4], &p[5]),
            6);
  EXPECT_NEAR(p[2] - p[0], p[4] - p[2], 0.02);
  EXPECT_NEAR(p[3] - p[1], p[5] - p[3], 0.02);
}

TEST(Plot, EscapesWhatTextMayHold) {
  const std::string svg = plot_svg({{"<a>&\"", "x", "y", {{"b<c", {{1, 1, ""}}}}}});
  EXPECT_THAT(svg, HasSubstr("&lt;a&gt;&amp;&quot;"));
  EXPECT_THAT(svg, HasSubstr("b&lt;c"));
  EXPECT_THAT(svg, Not(HasSubstr("<a>")));
}

TEST(Plot, EdgesAndRefusals) {
  EXPECT_THROW(plot_svg({}), ArgumentError);
  EXPECT_THROW(plot_svg({{"t", "x", "y", {}}}), ArgumentError);
  EXPECT_THROW(plot_svg({{"t", "x", "y", {{"c", {{0, 1, ""}}}}}}), ArgumentError)
      << "no place on a logarithmic axis";
  const std::string svg = plot_svg({{"t", "x", "y", {{"c", {{5, 0, ""}, {7, NAN, ""}}}}}});
  EXPECT_THAT(svg, Not(HasSubstr("nan"))) << "one point, and none with a logarithm";
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

}  // namespace
}  // namespace quire::eval
