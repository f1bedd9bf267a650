//! Plots of the report, as SVG text: bars with intervals, ratios with intervals, percentile curves.
//!
//! Labels are black on white: the report puts every plot on a light ground.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

/// Pixels.
const WIDTH: u32 = 1100;
const BAR_HEIGHT: u32 = 26;
const LABEL_WIDTH: i32 = 120;
const AXIS_HEIGHT: i32 = 48;
const CURVES_HEIGHT: u32 = 380;
const MARGIN: i32 = 12;
const FONT: &str = "sans-serif";

/// Ringmill's own bars stand out; the limits, which are no servers, step back.
const OWN: RGBColor = RGBColor(0x0b, 0x6e, 0x8a);
const LIMIT: RGBColor = RGBColor(0xb4, 0xb9, 0xbf);
const OTHER: RGBColor = RGBColor(0xd9, 0x8b, 0x3a);

/// Told apart in print and by most eyes (Okabe and Ito 2008), then again with another stroke.
const CURVES: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x60, 0x60, 0x60),
    RGBColor(0xb8, 0xa8, 0x00),
];

/// One bar.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    /// Drawn as a line with ends; none for a value that was measured once.
    pub(super) interval: Option<(f64, f64)>,
    /// What stands behind the bar.
    pub(super) text: String,
}

/// One curve: percentile in percent, and value.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Bars from zero, with their intervals.
pub(super) fn bars(axis: &str, bars: &[Bar]) -> Result<String> {
    let most = bars.iter().map(|bar| bar.interval.map_or(bar.value, |(_, high)| high.max(bar.value)));
    // Room for the text behind the longest bar.
    let most = most.fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.3;
    horizontal(axis, bars, 0.0..most, None)
}

/// Ratios as points with their intervals, and a line at 1: what crosses the line shows no difference.
pub(super) fn ratios(axis: &str, bars: &[Bar]) -> Result<String> {
    let ends = bars.iter().flat_map(|bar| {
        let (low, high) = bar.interval.unwrap_or((bar.value, bar.value));
        [low, high, bar.value, 1.0]
    });
    let (least, most) = ends.fold((1.0f64, 1.0f64), |(least, most), end| (least.min(end), most.max(end)));
    let room = (most - least).max(0.1);
    horizontal(axis, bars, least - 0.08 * room..most + 0.4 * room, Some(1.0))
}

fn horizontal(axis: &str, bars: &[Bar], values: Range<f64>, line: Option<f64>) -> Result<String> {
    draw(BAR_HEIGHT * bars.len() as u32 + (AXIS_HEIGHT + MARGIN) as u32, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin_top(MARGIN)
            .margin_right(MARGIN)
            .x_label_area_size(AXIS_HEIGHT)
            .y_label_area_size(LABEL_WIDTH)
            .build_cartesian_2d(values.clone(), Rows(bars.len()))
            .map_err(failed)?;
        let name = |row: &f64| bars.get(*row as usize).map_or_else(String::new, |bar| bar.name.clone());
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(8)
            .y_labels(bars.len())
            .y_label_formatter(&name)
            .x_desc(axis)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 14))
            .draw()
            .map_err(failed)?;
        for (row, bar) in bars.iter().enumerate() {
            let (top, middle) = (row as f64, row as f64 + 0.5);
            let colour = colour(&bar.name);
            let mut end = bar.value;
            match line {
                None => chart.draw_series([Rectangle::new(
                    [(values.start, top + 0.18), (bar.value, top + 0.82)],
                    colour.filled(),
                )]),
                Some(_) => chart.draw_series([Rectangle::new(
                    [
                        (bar.value - 0.003 * (values.end - values.start), top + 0.28),
                        (bar.value + 0.003 * (values.end - values.start), top + 0.72),
                    ],
                    colour.filled(),
                )]),
            }
            .map_err(failed)?;
            if let Some((low, high)) = bar.interval {
                end = end.max(high);
                let whisker = vec![(low, middle), (high, middle)];
                let ends = [low, high].map(|at| vec![(at, middle - 0.16), (at, middle + 0.16)]);
                let lines = [whisker].into_iter().chain(ends);
                chart
                    .draw_series(lines.map(|line| PathElement::new(line, BLACK.stroke_width(1))))
                    .map_err(failed)?;
            }
            let behind = end + 0.008 * (values.end - values.start);
            let text = Text::new(bar.text.clone(), (behind, top + 0.22), (FONT, 14));
            chart.draw_series([text]).map_err(failed)?;
        }
        if let Some(at) = line {
            let ends = vec![(at, 0.0), (at, bars.len() as f64)];
            chart.draw_series([PathElement::new(ends, BLACK.mix(0.5).stroke_width(1))]).map_err(failed)?;
        }
        Ok(())
    })
}

/// Latency over percentile; both axes are logarithmic, the percentiles in nines.
pub(super) fn curves(axis: &str, curves: &[Curve]) -> Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|point| point.1 > 0.0);
    let least = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    if least > most {
        return Ok(String::new());
    }
    // Whole decades, so that the axis has labels.
    let (low, high) =
        (10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil().max(least.log10().floor() + 1.0)));
    draw(CURVES_HEIGHT, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin_top(MARGIN)
            .margin_right(MARGIN * 2)
            .x_label_area_size(AXIS_HEIGHT)
            .y_label_area_size(64)
            .build_cartesian_2d(Nines, (low..high).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(BLACK.mix(0.05))
            .bold_line_style(BLACK.mix(0.14))
            .x_label_formatter(&|nines| format!("{}%", percentile(*nines)))
            .y_label_formatter(&|value| format!("{value}"))
            .x_desc("percentile of responses")
            .y_desc(axis)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 14))
            .draw()
            .map_err(failed)?;
        for (index, curve) in curves.iter().enumerate() {
            let colour = CURVES[index % CURVES.len()];
            let width =
                if curve.name.starts_with("ringmill") { 3 } else { 1 + (index / CURVES.len()) as u32 };
            let style = colour.stroke_width(width);
            let points = curve.points.iter().filter(|point| point.1 > 0.0);
            let points: Vec<(f64, f64)> = points.map(|(percent, value)| (nines(*percent), *value)).collect();
            let dots: Vec<_> = points.iter().map(|point| Circle::new(*point, 3, colour.filled())).collect();
            chart
                .draw_series(LineSeries::new(points, style))
                .map_err(failed)?
                .label(curve.name.clone())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
            chart.draw_series(dots).map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 14))
            .draw()
            .map_err(failed)?;
        Ok(())
    })
}

/// 90% is one nine, 99% two.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}

fn percentile(nines: f64) -> f64 {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    (percent * 1000.0).round() / 1000.0
}

fn colour(name: &str) -> RGBColor {
    match name {
        name if name.starts_with("ringmill") => OWN,
        name if name.starts_with("blind") => LIMIT,
        _ => OTHER,
    }
}

/// Draws on a white ground, and cuts the result down to what may stand inside an HTML page.
fn draw(
    height: u32,
    paint: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        paint(&root)?;
        root.present().map_err(failed)?;
    }
    // Inside HTML the namespace is understood, and its address would look like a link.
    Ok(svg.replace(NAMESPACE, ""))
}

const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";

/// A plot as the file of its own that it can be: with the namespace.
pub(super) fn alone(plot: &str) -> String {
    plot.replacen("<svg", &format!("<svg{NAMESPACE}"), 1)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// The vertical axis of horizontal bars: row 0 on top, one label in the middle of each row.
#[derive(Clone)]
struct Rows(usize);

impl Ranged for Rows {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        // The first limit is the bottom.
        let share = value / self.0.max(1) as f64;
        limit.1 + (f64::from(limit.0 - limit.1) * share) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0).map(|row| row as f64 + 0.5).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.0 as f64
    }
}

impl ValueFormatter<f64> for Rows {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}

/// The horizontal axis of percentiles, in nines: labels where they are measured.
#[derive(Clone)]
struct Nines;

impl Ranged for Nines {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        let share = (value - start) / (end - start);
        limit.0 + (f64::from(limit.1 - limit.0) * share) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        [50.0, 90.0, 99.0, 99.9, 99.99].map(nines).into()
    }

    fn range(&self) -> Range<f64> {
        nines(50.0)..nines(99.99)
    }
}

impl ValueFormatter<f64> for Nines {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64) -> Bar {
        let interval = Some((value * 0.9, value * 1.1));
        Bar { name: name.to_owned(), value, interval, text: format!("<{value}>") }
    }

    #[test]
    fn bars_have_names_texts_and_no_link() {
        let svg = bars("us", &[bar("ringmill", 3.0), bar("hyper", 4.0)]).unwrap();
        for part in ["<svg", "ringmill", "hyper", "&lt;3&gt;", "us"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("http"), "{svg}");
        // The first bar is above the second.
        let height = |name: &str| {
            let before = &svg[..svg.find(name).unwrap()];
            let at = before.rfind(" y=\"").unwrap() + 4;
            svg[at..].split('"').next().unwrap().parse::<i32>().unwrap()
        };
        assert!(height("ringmill") < height("hyper"));
    }

    #[test]
    fn nothing_and_zero_can_be_drawn() {
        bars("us", &[]).unwrap();
        bars("us", &[Bar { name: "a".to_owned(), value: 0.0, interval: None, text: String::new() }]).unwrap();
        ratios("x", &[bar("a", 1.0)]).unwrap();
        assert_eq!(curves("us", &[]).unwrap(), "");
    }

    #[test]
    fn curves_have_a_legend() {
        let points = vec![(50.0, 100.0), (90.0, 200.0), (99.0, 1000.0), (99.99, 9000.0)];
        let svg = curves("us", &[Curve { name: "axum".to_owned(), points }]).unwrap();
        assert!(svg.contains("axum") && svg.contains("50%") && svg.contains("99.99%"), "{svg}");
    }

    #[test]
    fn nines_go_both_ways() {
        for percent in [50.0, 90.0, 99.0, 99.9, 99.99] {
            assert!((percentile(nines(percent)) - percent).abs() < 1e-6);
        }
    }
}
