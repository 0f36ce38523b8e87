#include "quire/eval/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "quire/base/error.h"

namespace quire::eval {
namespace {

constexpr double kPanelWidth = 460, kPanelHeight = 340;           // of the axes
constexpr double kLeft = 74, kTop = 42, kBottom = 56, kGap = 86;  // around them
constexpr double kLegendWidth = 176, kLegendLine = 22;
constexpr double kLabelRoom = 48;  // a point this near to the right edge has its label at its left

// Told apart also by those who do not see red and green (Okabe and Ito 2008).
constexpr std::array<std::string_view, 8> kColours{"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                   "#000000", "#E69F00", "#56B4E9", "#7A5195"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out += c;
    }
  }
  return out;
}

bool has_logarithm(double value) { return std::isfinite(value) && value > 0; }

/// "200k", "1.5M", "0.001"
std::string tick_text(double value) {
  if (value >= 1e9) return fmt::format("{:g}G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (value >= 1e3) return fmt::format("{:g}k", value / 1e3);
  if (value >= 1e-3) return fmt::format("{:g}", value);
  return fmt::format("{:.0e}", value);
}

/// A logarithmic axis from `low` to `high`, drawn from `begin` to `end`.
class Axis {
 public:
  Axis(const std::vector<double>& values, double begin, double end) : begin_(begin), end_(end) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    low_ = std::log10(*least);
    high_ = std::log10(*most);
    const double margin = std::max(0.06 * (high_ - low_), 0.08);
    low_ -= margin;
    high_ += margin;
  }

  double at(double value) const {
    return begin_ + (std::log10(value) - low_) / (high_ - low_) * (end_ - begin_);
  }

  double end() const { return end_; }

  /// 1, 2 and 5 times powers of ten; only the powers where they would crowd.
  std::vector<double> ticks() const {
    const bool fine = high_ - low_ < 2.5;
    std::vector<double> out;
    for (int power = static_cast<int>(std::floor(low_)); power <= high_; ++power) {
      for (const double step : {1.0, 2.0, 5.0}) {
        const double value = step * std::pow(10.0, power);
        const double place = std::log10(value);
        if (place < low_ || place > high_ || (!fine && step > 1)) continue;
        out.push_back(value);
      }
    }
    return out;
  }

 private:
  double begin_, end_, low_ = 0, high_ = 1;
};

/// One of six shapes around a point.
std::string mark(std::size_t curve, double x, double y, std::string_view colour, bool open) {
  const std::string style = fmt::format("fill=\"{}\" stroke=\"{}\" stroke-width=\"1.6\"",
                                        open ? "white" : colour, colour);
  const double r = 4.2;
  switch (curve % 4) {
    case 0:
      return fmt::format("<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"{}\" {}/>\n", x, y, r, style);
    case 1:
      return fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{}\" height=\"{}\" {}/>\n", x - r,
                         y - r, 2 * r, 2 * r, style);
    case 2:
      return fmt::format("<path d=\"M{:.2f} {:.2f}l{} {}h-{}z\" {}/>\n", x, y - r - 1, r + 1,
                         2 * r + 1, 2 * r + 2, style);
    default:
      return fmt::format("<path d=\"M{:.2f} {:.2f}l{} {}l-{} {}l-{} -{}z\" {}/>\n", x, y - r - 1,
                         r + 1, r + 1, r + 1, r + 1, r + 1, r + 1, style);
  }
}

std::string text(double x, double y, std::string_view anchor, std::string_view content,
                 int size = 13) {
  return fmt::format(
      "<text x=\"{:.2f}\" y=\"{:.2f}\" text-anchor=\"{}\" font-size=\"{}\">{}</text>\n", x, y,
      anchor, size, escaped(content));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view colour) {
  return fmt::format(
      "<line x1=\"{:.2f}\" y1=\"{:.2f}\" x2=\"{:.2f}\" y2=\"{:.2f}\" stroke=\"{}\"/>\n", x1, y1, x2,
      y2, colour);
}

/// A figure while it is drawn.
class Figure {
 public:
  explicit Figure(const std::vector<PlotPanel>& panels) : panels_(panels) {
    for (const PlotPanel& panel : panels)
      for (const PlotCurve& curve : panel.curves)
        if (std::find(names_.begin(), names_.end(), curve.name) == names_.end())
          names_.push_back(curve.name);
  }

  std::string draw() {
    for (std::size_t i = 0; i < panels_.size(); ++i)
      draw_panel(panels_[i], kLeft + static_cast<double>(i) * (kPanelWidth + kGap));
    const double legend =
        kLeft + static_cast<double>(panels_.size()) * (kPanelWidth + kGap) - kGap + 24;
    draw_legend(legend);
    return fmt::format(
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
               "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\">\n"
               "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
               legend + kLegendWidth, kTop + kPanelHeight + kBottom) +
           out_ + "</svg>\n";
  }

 private:
  std::size_t place(const std::string& name) const {
    return static_cast<std::size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
  }
  static std::string_view colour(std::size_t place) { return kColours[place % kColours.size()]; }

  void draw_panel(const PlotPanel& panel, double left) {
    std::vector<double> xs, ys;
    for (const PlotCurve& curve : panel.curves) {
      for (const PlotPoint& point : curve.points) {
        if (!has_logarithm(point.x)) continue;
        xs.push_back(point.x);
        if (has_logarithm(point.y)) ys.push_back(point.y);
      }
    }
    QUIRE_CHECK(!xs.empty(), "the panel '", panel.title, "' has no point to draw");
    if (ys.empty()) ys = {0.1, 1};
    const double bottom = kTop + kPanelHeight;
    const Axis x(xs, left, left + kPanelWidth), y(ys, bottom - 14, kTop);
    draw_axes(panel, x, y, left, bottom);
    for (const PlotCurve& curve : panel.curves) draw_curve(curve, x, y, bottom);
  }

  void draw_axes(const PlotPanel& panel, const Axis& x, const Axis& y, double left, double bottom) {
    for (const double value : x.ticks()) {
      out_ += line(x.at(value), kTop, x.at(value), bottom, "#e4e4e4");
      out_ += text(x.at(value), bottom + 18, "middle", tick_text(value), 12);
    }
    for (const double value : y.ticks()) {
      out_ += line(left, y.at(value), left + kPanelWidth, y.at(value), "#e4e4e4");
      out_ += text(left - 7, y.at(value) + 4, "end", tick_text(value), 12);
    }
    out_ += fmt::format(
        "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{}\" height=\"{}\" fill=\"none\" "
        "stroke=\"#555\"/>\n",
        left, kTop, kPanelWidth, kPanelHeight);
    out_ += text(left + kPanelWidth / 2, kTop - 16, "middle", panel.title, 15);
    out_ += text(left + kPanelWidth / 2, bottom + 42, "middle", panel.x_label);
    out_ += fmt::format(
        "<text transform=\"translate({:.2f} {:.2f}) rotate(-90)\" text-anchor=\"middle\" "
        "font-size=\"13\">{}</text>\n",
        left - 54, kTop + kPanelHeight / 2, escaped(panel.y_label));
  }

  void draw_curve(const PlotCurve& curve, const Axis& x, const Axis& y, double bottom) {
    std::vector<PlotPoint> points;
    for (const PlotPoint& point : curve.points)
      if (has_logarithm(point.x)) points.push_back(point);
    std::stable_sort(points.begin(), points.end(),
                     [](const PlotPoint& a, const PlotPoint& b) { return a.x < b.x; });
    const std::size_t which = place(curve.name);
    std::string path, marks;
    for (const PlotPoint& point : points) {
      const bool drawn = has_logarithm(point.y);
      any_open_ = any_open_ || !drawn;
      const double px = x.at(point.x), py = drawn ? y.at(point.y) : bottom;
      if (drawn) path += fmt::format("{}{:.2f} {:.2f}", path.empty() ? "M" : "L", px, py);
      marks += mark(which, px, py, colour(which), !drawn);
      if (!point.label.empty()) {
        const bool inside = px + kLabelRoom < x.end();
        marks += text(inside ? px + 7 : px - 7, py - 7, inside ? "start" : "end", point.label, 11);
      }
    }
    if (!path.empty()) {
      out_ += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"/>\n",
                          path, colour(which));
    }
    out_ += marks;
  }

  void draw_legend(double left) {
    double y = kTop + 12;
    for (std::size_t i = 0; i < names_.size(); ++i, y += kLegendLine) {
      out_ += line(left, y, left + 24, y, colour(i));
      out_ += mark(i, left + 12, y, colour(i), false);
      out_ += text(left + 32, y + 4, "start", names_[i]);
    }
    if (any_open_) out_ += text(left, y + 6, "start", "open mark: exactly 0", 12);
  }

  const std::vector<PlotPanel>& panels_;
  std::vector<std::string> names_;
  std::string out_;
  bool any_open_ = false;
};

}  // namespace

std::string plot_svg(const std::vector<PlotPanel>& panels) {
  QUIRE_CHECK(!panels.empty(), "a figure without panels");
  return Figure(panels).draw();
}

}  // namespace quire::eval
