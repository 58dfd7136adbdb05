//! Lines between points.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::{COLOURS, Error, LABEL, WIDTH, failed, head, plain, rows_of_legend, text};

/// Lines on logarithmic axes.
pub(crate) struct Lines {
    /// The line above it.
    pub(crate) title: String,
    /// The quantities, with units.
    pub(crate) axes: [String; 2],
    /// Where the x axis has labels.
    pub(crate) ticks: Vec<f64>,
    /// The text for an x.
    pub(crate) tick: fn(f64) -> String,
    /// The lines.
    pub(crate) lines: Vec<Line>,
    /// The kind of the axes.
    pub(crate) scale: Scale,
}

/// The kinds of axes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Both axes logarithmic.
    Both,
    /// The x axis logarithmic, the y axis linear from zero.
    OnlyX,
}

/// One line with a mark at each point.
pub(crate) struct Line {
    /// Its name in the legend, where it is to stand there.
    pub(crate) name: String,
    /// The points, by x.
    pub(crate) points: Vec<(f64, f64)>,
    /// Drawn without marks, as something to compare with.
    pub(crate) guide: bool,
}

impl Lines {
    /// The picture as SVG.
    ///
    /// # Errors
    ///
    /// There is nothing to draw.
    pub(crate) fn svg(&self) -> Result<String, Error> {
        let [xs, ys] = self.bounds()?;
        match self.scale {
            Scale::Both => {
                let marks = marks(ys.0, ys.1);
                let bounds = marks[0]..marks[marks.len() - 1];
                self.draw(xs, bounds.log_scale().with_key_points(marks))
            }
            Scale::OnlyX => self.draw(xs, 0.0..ys.1 * 1.08),
        }
    }

    /// Least and greatest of both coordinates.
    fn bounds(&self) -> Result<[(f64, f64); 2], Error> {
        let all: Vec<(f64, f64)> = self
            .lines
            .iter()
            .flat_map(|line| line.points.clone())
            .collect();
        let within = |values: Vec<f64>| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            (least, values.iter().copied().fold(0.0, f64::max))
        };
        let xs = within(all.iter().map(|point| point.0).collect());
        let ys = within(all.iter().map(|point| point.1).collect());
        match all.is_empty() || xs.0 <= 0.0 || (ys.0 <= 0.0 && self.scale == Scale::Both) {
            true => Err(Error::Draw(format!(
                "{}: no points, or one at zero",
                self.title
            ))),
            false => Ok([xs, ys]),
        }
    }

    fn draw<Y>(&self, xs: (f64, f64), ys: Y) -> Result<String, Error>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let names: Vec<String> = self.lines.iter().map(|line| line.name.clone()).collect();
        let legend = rows_of_legend(&names);
        let colours: Vec<ShapeStyle> = self
            .lines
            .iter()
            .enumerate()
            .map(|(at, line)| colour(at, line))
            .collect();
        let mut svg = String::new();
        {
            let size = (WIDTH, 460 + 22 * legend.len() as u32);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            let below = head(&root, &self.title, &names, &legend, &colours)?;
            let room = 1.15;
            let xs = (xs.0 / room..xs.1 * room)
                .log_scale()
                .with_key_points(self.ticks.clone());
            let mut chart = ChartBuilder::on(&below)
                .margin_left(16)
                .margin_bottom(8)
                .margin_right(24)
                .margin_top(8)
                .x_label_area_size(48)
                .y_label_area_size(76)
                .build_cartesian_2d(xs, ys)
                .map_err(failed)?;
            chart
                .configure_mesh()
                .x_desc(self.axes[0].as_str())
                .y_desc(self.axes[1].as_str())
                .x_label_formatter(&|value| (self.tick)(*value))
                .y_label_formatter(&|value| plain(*value))
                .x_labels(self.ticks.len())
                .label_style(text(LABEL))
                .axis_desc_style(text(LABEL))
                .light_line_style(TRANSPARENT)
                .draw()
                .map_err(failed)?;
            // What the others are compared with lies below them.
            let (guides, others): (Vec<_>, Vec<_>) = self
                .lines
                .iter()
                .zip(&colours)
                .partition(|(line, _)| line.guide);
            for (line, colour) in guides.into_iter().chain(others) {
                let points = line.points.iter().copied();
                chart
                    .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
                    .map_err(failed)?;
                if !line.guide {
                    chart
                        .draw_series(points.map(|point| Circle::new(point, 4, *colour)))
                        .map_err(failed)?;
                }
            }
            root.present().map_err(failed)?;
        }
        Ok(svg)
    }
}

fn colour(at: usize, line: &Line) -> ShapeStyle {
    match line.guide {
        true => RGBColor(170, 170, 170).filled(),
        false => COLOURS[at % COLOURS.len()].filled(),
    }
}

/// The marks of the y axis, from at most `least` to at least `greatest`: powers of ten, or 1, 2, 5, 10 where these are few.
fn marks(least: f64, greatest: f64) -> Vec<f64> {
    let (low, high) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
    let steps: &[f64] = if high - low > 3 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let all = (low..=high.max(low + 1))
        .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    let all: Vec<f64> = all.collect();
    let first = all.iter().rposition(|mark| *mark <= least).unwrap_or(0);
    let last = all
        .iter()
        .position(|mark| *mark >= greatest && *mark > all[first]);
    all[first..=last.unwrap_or(all.len() - 1)].to_vec()
}
