//! Stacked bars.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{
    COLOURS, Error, LABEL, LETTER, TITLE, WIDTH, failed, head, plain, rows_of_legend, short, text,
};

/// Horizontal bars, each of several parts.
pub(crate) struct Bars {
    /// The line above it.
    pub(crate) title: String,
    /// The quantity, with the unit.
    pub(crate) axis: String,
    /// The parts' names, for the legend; none for bars in one piece.
    pub(crate) parts: Vec<String>,
    /// Each bar's name and the lengths of its parts.
    pub(crate) bars: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// The picture as SVG.
    ///
    /// # Errors
    ///
    /// There is nothing to draw.
    pub(crate) fn svg(&self) -> Result<String, Error> {
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
