//! The two kinds of picture, drawn by plotters as SVG: stacked bars, and lines between points on logarithmic axes.
//!
//! Knows nothing of what was measured; `pictures` does.

mod bars;
mod lines;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Error;

pub(crate) use bars::Bars;
pub(crate) use lines::{Line, Lines, Scale};

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

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Draw(error.to_string())
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&BLACK)
}

/// The names in each row of the legend with their places: as many as there is room for.
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
pub(crate) fn short(value: f64) -> String {
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
