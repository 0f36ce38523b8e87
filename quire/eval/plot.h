#pragma once

#include <string>
#include <vector>

namespace quire::eval {

/// A measured point: how much, at what cost.
struct PlotPoint {
  double x = 0, y = 0;
  std::string label;  // beside the point: the budget; may be empty
};

/// The points of one cache, joined in the order of x.
struct PlotCurve {
  std::string name;
  std::vector<PlotPoint> points;
};

/// One pair of axes.
struct PlotPanel {
  std::string title, x_label, y_label;
  std::vector<PlotCurve> curves;
};

/// A figure of panels side by side as SVG, with logarithmic axes, grid, and one legend: a curve of
/// the same name has the same colour and mark in all panels. Points that have no logarithm (an
/// exact cache has KL 0) are drawn at the lower edge as open marks, and the legend says so. Text is
/// escaped; the same panels give the same bytes. Throws ArgumentError for no panels, or none with a
/// point of positive x.
std::string plot_svg(const std::vector<PlotPanel>& panels);

}  // namespace quire::eval
