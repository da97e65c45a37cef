//! The lab's plots, drawn by plotters as SVG that stands in a page.
//!
//! A page is read in light and in dark: what plotters draws in black takes the page's own text colour, and the
//! other colours are of a middle lightness that stands out on both.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Why a plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the plot {plot:?} cannot be drawn: {why}")]
pub struct PlotError {
    plot: String,
    why: String,
}

/// A plot and what is seen in it.
#[derive(Debug, Clone)]
pub struct Figure {
    /// The drawing.
    pub svg: String,
    /// What it says, in a sentence or two.
    pub caption: String,
}

/// Points of a line or a cloud.
pub type Points = Vec<(f64, f64)>;

/// What an axis counts, and where it ends.
#[derive(Debug, Clone)]
pub struct Axis {
    unit: &'static str,
    end: f64,
}

impl Axis {
    /// From zero to a little above the largest value.
    pub fn of(unit: &'static str, values: impl IntoIterator<Item = f64>) -> Self {
        Self { unit, end: values.into_iter().fold(0.0, f64::max).max(1e-3) * 1.05 }
    }
}

/// Width and height of a plot, in pixels: half of a laptop's screen.
const SIZE: (u32, u32) = (760, 320);
/// Height of a row where a plot has rows.
const ROW: u32 = 26;
/// Columns of a distribution.
const COLUMNS: usize = 40;

/// Tones that are told apart on white and on black, also by those who do not see red and green apart (after
/// Okabe and Ito, darkened or lightened to a middle).
pub const TONES: [RGBColor; 6] = [
    RGBColor(0x3b, 0x8e, 0xd0),
    RGBColor(0xe0, 0x8a, 0x1e),
    RGBColor(0x1f, 0x9e, 0x7a),
    RGBColor(0xc7, 0x6b, 0xa8),
    RGBColor(0x8a, 0x8f, 0x98),
    RGBColor(0xd0, 0x55, 0x3b),
];
/// Stands for the page's own ground behind a legend, light or dark: `draw` puts that in its place.
const CARD: RGBColor = RGBColor(0xfe, 0xfe, 0xfe);
/// The tone of limits and of what went wrong.
const WARN: RGBColor = TONES[5];

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 's> = ChartContext<'a, SVGBackend<'s>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn Error>>;

fn draw<F>(name: &str, size: (u32, u32), caption: String, draw: F) -> Result<Figure, PlotError>
where
    F: FnOnce(&Canvas<'_>) -> Drawn,
{
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&canvas)
            .and_then(|()| canvas.present().map_err(Into::into))
            .map_err(|error| PlotError { plot: name.to_owned(), why: error.to_string() })?;
    }
    // An SVG inside HTML needs no name space, and a page without an address in it visibly asks nobody for anything.
    let svg = svg
        .replace("#000000", "currentColor")
        .replace("fill=\"#FEFEFE\"", "style=\"fill:var(--card)\"")
        .replace(" xmlns=\"http://www.w3.org/2000/svg\"", "")
        .replacen("<svg", &format!("<svg role=\"img\" aria-label=\"{}\"", super::html::escape(name)), 1);
    Ok(Figure { svg, caption })
}

fn chart<'a, 's>(
    canvas: &'a Canvas<'s>,
    title: &str,
    x: &Axis,
    y: &Axis,
) -> Result<Chart<'a, 's>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(canvas)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..x.end, 0.0..y.end)?;
    chart
        .configure_mesh()
        .x_desc(x.unit)
        .y_desc(y.unit)
        .light_line_style(BLACK.mix(0.03))
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    Ok(chart)
}

/// Names what is drawn, where nothing is.
fn legend<'s: 'a, 'a>(chart: &mut Chart<'a, 's>, place: SeriesLabelPosition) -> Drawn {
    chart
        .configure_series_labels()
        .position(place)
        .border_style(BLACK.mix(0.2))
        .background_style(CARD)
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// An upright line with a name.
fn mark(chart: &mut Chart<'_, '_>, at: f64, top: f64, name: &str, tone: RGBColor) -> Drawn {
    chart
        .draw_series(LineSeries::new([(at, 0.0), (at, top)], tone.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], tone.stroke_width(2)));
    Ok(())
}

/// How often each value came, with marks at some of them.
pub fn distribution(
    title: &str,
    unit: &'static str,
    of: &'static str,
    values: &[f64],
    marks: &[(&str, f64)],
    caption: String,
) -> Result<Figure, PlotError> {
    let x = Axis::of(unit, values.iter().copied());
    let width = x.end / COLUMNS as f64;
    let mut columns = [0_u32; COLUMNS];
    for value in values {
        columns[((value / width) as usize).min(COLUMNS - 1)] += 1;
    }
    let y = Axis::of(of, columns.iter().map(|&count| f64::from(count)).chain([1.0]));
    draw(title, SIZE, caption, |canvas| {
        let mut chart = chart(canvas, title, &x, &y)?;
        chart.draw_series(columns.iter().enumerate().map(|(i, &count)| {
            let left = i as f64 * width;
            Rectangle::new([(left, 0.0), (left + width * 0.92, f64::from(count))], TONES[0].mix(0.7).filled())
        }))?;
        for (i, (name, at)) in marks.iter().enumerate() {
            mark(&mut chart, *at, y.end, name, [TONES[2], TONES[1], WARN][i.min(2)])?;
        }
        if !marks.is_empty() {
            legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        }
        Ok(())
    })
}

/// A cloud.
pub fn scatter(
    title: &str,
    x: &'static str,
    y: &'static str,
    points: &Points,
    caption: String,
) -> Result<Figure, PlotError> {
    let (x, y) = (Axis::of(x, points.iter().map(|p| p.0)), Axis::of(y, points.iter().map(|p| p.1)));
    draw(title, SIZE, caption, |canvas| {
        let mut chart = chart(canvas, title, &x, &y)?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, TONES[0].mix(0.6).filled())))?;
        Ok(())
    })
}

/// A line with the area below it.
pub fn area(
    title: &str,
    x: &'static str,
    y: &'static str,
    points: &Points,
    caption: String,
) -> Result<Figure, PlotError> {
    let (x, y) = (Axis::of(x, points.iter().map(|p| p.0)), Axis::of(y, points.iter().map(|p| p.1)));
    draw(title, SIZE, caption, |canvas| {
        let mut chart = chart(canvas, title, &x, &y)?;
        let series = AreaSeries::new(points.iter().copied(), 0.0, TONES[0].mix(0.2));
        chart.draw_series(series.border_style(TONES[0]))?;
        Ok(())
    })
}

/// Lines with names and dots, and a level that is not to be passed.
pub fn lines(
    title: &str,
    x: &'static str,
    y: &'static str,
    named: &[(&str, Points)],
    limit: Option<(&str, f64)>,
    caption: String,
) -> Result<Figure, PlotError> {
    let all = || named.iter().flat_map(|(_, points)| points.iter());
    let x = Axis::of(x, all().map(|p| p.0));
    // What fails may take for ever; the part that matters is around the limit.
    let highest = all().map(|p| p.1).fold(0.0, f64::max);
    let shown = limit.map_or(highest, |(_, level)| highest.min(level * 3.0).max(level));
    let y = Axis::of(y, [shown]);
    draw(title, SIZE, caption, |canvas| {
        let mut chart = chart(canvas, title, &x, &y)?;
        for (i, (name, points)) in named.iter().enumerate() {
            let tone = TONES[i % (TONES.len() - 1)];
            let inside = || points.iter().map(|&(px, py)| (px, py.min(y.end)));
            chart
                .draw_series(LineSeries::new(inside(), tone.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], tone.stroke_width(2)));
            chart.draw_series(inside().map(|point| Circle::new(point, 4, tone.filled())))?;
        }
        if let Some((name, level)) = limit {
            chart
                .draw_series(LineSeries::new([(0.0, level), (x.end, level)], WARN.stroke_width(1)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], WARN.stroke_width(1)));
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

/// One row of a timeline: moments by the index of their name, and the stretch they lie in.
#[derive(Debug, Clone)]
pub struct Row {
    /// From, until.
    pub stretch: (f64, f64),
    /// Which moment, and when.
    pub moments: Vec<(usize, f64)>,
}

/// Rows of moments, the first on top.
pub fn timeline(
    title: &str,
    x: &'static str,
    y: &'static str,
    names: &[&str],
    rows: &[Row],
    caption: String,
) -> Result<Figure, PlotError> {
    let ends = rows.iter().flat_map(|row| row.moments.iter().map(|m| m.1).chain([row.stretch.1]));
    // Room for the names to the right of the moments.
    let x = Axis { unit: x, end: Axis::of(x, ends).end * 1.25 };
    let y = Axis { unit: y, end: rows.len() as f64 + 0.5 };
    let size = (SIZE.0, SIZE.1.max(110 + ROW * rows.len() as u32));
    let place = |i: usize| (rows.len() - i) as f64 - 0.25;
    draw(title, size, caption, |canvas| {
        let mut chart = chart(canvas, title, &x, &y)?;
        chart.draw_series(rows.iter().enumerate().map(|(i, row)| {
            let (from, until) = row.stretch;
            let corners = [(from, place(i) - 0.2), (until, place(i) + 0.2)];
            Rectangle::new(corners, TONES[4].mix(0.35).filled())
        }))?;
        for (n, name) in names.iter().enumerate() {
            let tone = TONES[[0, 1, 2, 3, 5][n % 5]];
            let dots = rows.iter().enumerate().flat_map(|(i, row)| {
                row.moments.iter().filter(|moment| moment.0 == n).map(move |moment| (moment.1, i))
            });
            chart
                .draw_series(dots.map(|(at, i)| Circle::new((at, place(i)), 5, tone.filled())))?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 5, tone.filled()));
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

/// Columns with names, for shares.
pub fn columns(
    title: &str,
    y: &'static str,
    named: &[(String, f64)],
    caption: String,
) -> Result<Figure, PlotError> {
    let axis = Axis::of(y, named.iter().map(|column| column.1));
    draw(title, SIZE, caption, |canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d((0..named.len().max(2) - 1).into_segmented(), 0.0..axis.end)?;
        let label = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(i) => named.get(*i).map_or(String::new(), |column| column.0.clone()),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(named.len().max(1))
            .x_label_formatter(&label)
            .y_desc(axis.unit)
            .light_line_style(BLACK.mix(0.03))
            .bold_line_style(BLACK.mix(0.12))
            .draw()?;
        chart.draw_series(named.iter().enumerate().map(|(i, column)| {
            let corners = [(SegmentValue::Exact(i), 0.0), (SegmentValue::Exact(i + 1), column.1)];
            let mut bar = Rectangle::new(corners, TONES[0].mix(0.7).filled());
            bar.set_margin(0, 0, 12, 12);
            bar
        }))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plots_take_the_pages_colour_and_name_no_address() {
        let points = vec![(1.0, 500.0), (2.0, 700.0), (4.0, 90_000.0)];
        let row = Row { stretch: (0.0, 700.0), moments: vec![(0, 250.0), (1, 600.0)] };
        let figures = [
            distribution("a", "ms", "turns", &[1.0, 2.0], &[("p50", 1.0)], String::new()).unwrap(),
            scatter("b", "s", "ms", &points, String::new()).unwrap(),
            area("c", "s", "MiB", &points, String::new()).unwrap(),
            lines("d", "callers", "ms", &[("p95", points.clone())], Some(("limit", 2000.0)), String::new())
                .unwrap(),
            timeline("e", "ms", "turn", &["words", "sound"], &[row], String::new()).unwrap(),
            columns("f", "%", &[("asr".into(), 20.0)], String::new()).unwrap(),
        ];
        for figure in figures {
            assert!(figure.svg.contains("currentColor") && !figure.svg.contains("#000000"), "{}", figure.svg);
            assert!(!figure.svg.contains("http") && figure.svg.contains("</svg>"));
        }
    }

    #[test]
    fn nothing_to_show_is_an_empty_plot() {
        distribution("a", "ms", "turns", &[], &[], String::new()).unwrap();
        scatter("b", "s", "ms", &Points::new(), String::new()).unwrap();
        timeline("e", "ms", "turn", &["x"], &[], String::new()).unwrap();
        columns("f", "%", &[], String::new()).unwrap();
    }
}
