//! The two kinds of picture, drawn by plotters as SVG: stacked bars, and lines between points on logarithmic axes.
//!
//! Knows nothing of what was measured; `pictures` does.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Error;

/// Okabe and Ito's colours, which people who cannot tell red from green can tell apart, a grey and a brown.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
    RGBColor(240, 228, 66),
    RGBColor(0, 0, 0),
    RGBColor(150, 90, 40),
];

const WIDTH: u32 = 900;
const FONT: &str = "sans-serif";
/// Sizes in pixels, and how wide a letter is at most on average: the browser sets the text, nothing here measures it.
const TITLE: u32 = 20;
const LABEL: u32 = 14;
const LETTER: u32 = 8;

/// Horizontal bars, each of several parts.
pub struct Bars {
    /// What stands above it.
    pub title: String,
    /// What the numbers are, with the unit.
    pub axis: String,
    /// The parts' names, for the legend; none for bars in one piece.
    pub parts: Vec<String>,
    /// Each bar's name and the lengths of its parts.
    pub bars: Vec<(String, Vec<f64>)>,
}

/// Lines on logarithmic axes.
pub struct Lines {
    /// What stands above it.
    pub title: String,
    /// What the axes are, with units.
    pub axes: [String; 2],
    /// Where the x axis has labels.
    pub ticks: Vec<f64>,
    /// How an x is written.
    pub tick: fn(f64) -> String,
    /// The lines.
    pub lines: Vec<Line>,
    /// Whether both axes, or x alone, are logarithmic.
    pub scale: Scale,
}

/// How far apart values stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Both axes logarithmic.
    Both,
    /// The x axis logarithmic, the y axis linear from zero.
    OnlyX,
}

/// One line with a mark at each point.
pub struct Line {
    /// Its name in the legend, where it is to stand there.
    pub name: String,
    /// The points, by x.
    pub points: Vec<(f64, f64)>,
    /// Drawn without marks, as something to compare with.
    pub guide: bool,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Draw(error.to_string())
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&BLACK)
}

impl Bars {
    /// The picture as SVG.
    ///
    /// # Errors
    ///
    /// There is nothing to draw.
    pub fn svg(&self) -> Result<String, Error> {
        let most = self.bars.iter().map(|(_, parts)| parts.iter().sum::<f64>());
        let most = most.fold(0.0, f64::max);
        if most <= 0.0 {
            return Err(Error::Draw(format!("{}: there are no bars", self.title)));
        }
        let longest = self.bars.iter().map(|(name, _)| name.chars().count()).max();
        let left = LETTER * longest.unwrap_or(0) as u32 + 16;
        let legend = rows_of_legend(&self.parts);
        let above = TITLE + 18 + 22 * legend.len() as u32;
        let height = above + 34 * self.bars.len() as u32 + 68;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            let colours = COLOURS.iter().map(|colour| colour.filled());
            let below = head(
                &root,
                &self.title,
                &self.parts,
                &legend,
                &colours.collect::<Vec<_>>(),
            )?;
            let count = self.bars.len() as f64;
            let mut chart = ChartBuilder::on(&below)
                .margin_right(12)
                .margin_bottom(8)
                .x_label_area_size(48)
                .y_label_area_size(left)
                .build_cartesian_2d(0.0..most * 1.1, 0.0..count)
                .map_err(failed)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .y_labels(0)
                .x_desc(self.axis.as_str())
                .x_label_formatter(&|value| plain(*value))
                .label_style(text(LABEL))
                .axis_desc_style(text(LABEL))
                .light_line_style(TRANSPARENT)
                .draw()
                .map_err(failed)?;
            for (at, (name, parts)) in self.bars.iter().enumerate() {
                let (low, high) = (count - at as f64 - 0.85, count - at as f64 - 0.15);
                let mut from = 0.0;
                let pieces = parts.iter().enumerate().map(|(part, length)| {
                    let corners = [(from, low), (from + length, high)];
                    from += length;
                    Rectangle::new(corners, COLOURS[part % COLOURS.len()].filled())
                });
                chart.draw_series(pieces).map_err(failed)?;
                let middle = chart.backend_coord(&(0.0, (low + high) / 2.0));
                let style = text(LABEL).pos(Pos::new(HPos::Right, VPos::Center));
                root.draw(&Text::new(name.as_str(), (middle.0 - 8, middle.1), style))
                    .map_err(failed)?;
                let style = text(LABEL).pos(Pos::new(HPos::Left, VPos::Center));
                let total = (from + most * 0.008, (low + high) / 2.0);
                chart
                    .draw_series([Text::new(short(from), total, style)])
                    .map_err(failed)?;
            }
            root.present().map_err(failed)?;
        }
        Ok(svg)
    }
}

impl Lines {
    /// The picture as SVG.
    ///
    /// # Errors
    ///
    /// There is nothing to draw.
    pub fn svg(&self) -> Result<String, Error> {
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

/// What the y axis shows, from at most `least` to at least `greatest`: powers of ten, or 1, 2, 5, 10 where these are few.
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

/// Which names stand in each row of the legend, and where: as many as there is room for.
fn rows_of_legend(names: &[String]) -> Vec<Vec<(usize, u32)>> {
    let mut rows: Vec<Vec<(usize, u32)>> = Vec::new();
    let mut at = WIDTH;
    let named = names
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.is_empty());
    for (number, name) in named {
        let width = 30 + LETTER * name.chars().count() as u32 + 10;
        if at + width > WIDTH {
            rows.push(Vec::new());
            at = 20;
        }
        if let Some(row) = rows.last_mut() {
            row.push((number, at));
        }
        at += width;
    }
    rows
}

/// Title and legend; gives what is left below.
fn head<'a>(
    root: &Area<'a>,
    title: &str,
    names: &[String],
    legend: &[Vec<(usize, u32)>],
    colours: &[ShapeStyle],
) -> Result<Area<'a>, Error> {
    root.fill(&WHITE).map_err(failed)?;
    let middle = Pos::new(HPos::Center, VPos::Top);
    root.draw(&Text::new(
        title,
        (WIDTH as i32 / 2, 8),
        text(TITLE).pos(middle),
    ))
    .map_err(failed)?;
    let mut y = (TITLE + 18) as i32;
    for row in legend {
        for (number, x) in row {
            let x = *x as i32;
            let square =
                Rectangle::new([(x, y), (x + 14, y + 14)], colours[number % colours.len()]);
            root.draw(&square).map_err(failed)?;
            let style = text(LABEL).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(names[*number].as_str(), (x + 20, y + 8), style))
                .map_err(failed)?;
        }
        y += 22;
    }
    Ok(root.split_vertically(y).1)
}

/// A number with as many digits as one can read off a picture.
#[must_use]
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        _ if (value - value.round()).abs() < 1e-9 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut parted = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && digit != '-' {
            parted.push(',');
        }
        parted.push(digit);
    }
    parted + rest
}

/// The same without zeros at the end, for the labels of an axis.
fn plain(value: f64) -> String {
    let text = short(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
