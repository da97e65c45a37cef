//! A load run as one page that needs nothing else: figures, and plots as inline SVG.

use std::error::Error;
use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::report::{LoadReport, findings};
use super::score::{Percentiles, turns};

/// Why a page could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the plot {plot:?} cannot be drawn: {why}")]
pub struct PlotError {
    plot: &'static str,
    why: String,
}

/// Width and height of a plot, in pixels: half of a laptop's screen.
const SIZE: (u32, u32) = (760, 320);
/// Columns of the latency distribution.
const COLUMNS: usize = 40;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 's> = ChartContext<'a, SVGBackend<'s>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Points = Vec<(f64, f64)>;

/// Draws the page.
pub fn page(report: &LoadReport<'_>) -> Result<String, PlotError> {
    let answered: Points = turns(report.run)
        .filter_map(|(_, at, turn)| turn.voice_to_voice_ms.map(|ms| (at + turn.speech_s, ms)))
        .collect();
    let mut plots = vec![
        plot("distribution", |canvas| distribution(canvas, &answered))?,
        plot("latency over time", |canvas| scatter(canvas, "Voice to voice over the run", "ms", &answered))?,
    ];
    let watched = &report.run.watched;
    if watched.len() > 1 {
        let memory: Points = watched.iter().map(|w| (w.at_s, w.usage.rss_mib)).collect();
        let cores: Points = watched
            .windows(2)
            .map(|pair| {
                let (seconds, cpu) = (pair[1].at_s - pair[0].at_s, pair[1].usage.cpu_s - pair[0].usage.cpu_s);
                (pair[1].at_s, if seconds > 0.1 { cpu / seconds } else { 0.0 })
            })
            .collect();
        let calls: Points = watched.iter().map(|w| (w.at_s, w.calls as f64)).collect();
        plots.push(plot("cpu", |canvas| line(canvas, "Cores used by the server", "cores", &cores))?);
        plots.push(plot("memory", |canvas| line(canvas, "Server memory", "MiB", &memory))?);
        plots.push(plot("calls", |canvas| line(canvas, "Calls standing", "calls", &calls))?);
    }
    Ok(document(report, &plots))
}

fn plot<F>(name: &'static str, draw: F) -> Result<String, PlotError>
where
    F: FnOnce(&Canvas<'_>) -> Result<(), Box<dyn Error>>,
{
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&canvas)
            .and_then(|()| canvas.present().map_err(Into::into))
            .map_err(|error| PlotError { plot: name, why: error.to_string() })?;
    }
    Ok(svg)
}

/// Axes from zero to what is given, with what they count.
fn axes<'a, 's>(
    canvas: &'a Canvas<'s>,
    title: &str,
    (x_end, x_unit): (f64, &str),
    (y_end, y_unit): (f64, &str),
) -> Result<Chart<'a, 's>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(canvas)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..x_end, 0.0..y_end)?;
    chart.configure_mesh().x_desc(x_unit).y_desc(y_unit).draw()?;
    Ok(chart)
}

/// Axes for something that is watched while a run goes on.
fn over_time<'a, 's>(
    canvas: &'a Canvas<'s>,
    title: &str,
    unit: &str,
    points: &Points,
) -> Result<Chart<'a, 's>, Box<dyn Error>> {
    let seconds = (extent(points.iter().map(|p| p.0)), "seconds into the run");
    axes(canvas, title, seconds, (extent(points.iter().map(|p| p.1)), unit))
}

fn distribution(canvas: &Canvas<'_>, answered: &Points) -> Result<(), Box<dyn Error>> {
    let longest = extent(answered.iter().map(|p| p.1));
    let width = longest / COLUMNS as f64;
    let mut columns = [0_u32; COLUMNS];
    for (_, ms) in answered {
        columns[((ms / width) as usize).min(COLUMNS - 1)] += 1;
    }
    let highest = columns.iter().copied().max().unwrap_or(0).max(1);
    let mut chart = axes(canvas, "Voice to voice", (longest, "ms"), (f64::from(highest) * 1.05, "turns"))?;
    chart.draw_series(columns.iter().enumerate().map(|(i, &count)| {
        let left = i as f64 * width;
        Rectangle::new([(left, 0.0), (left + width * 0.92, f64::from(count))], BLUE.mix(0.6).filled())
    }))?;
    Ok(())
}

fn scatter(canvas: &Canvas<'_>, title: &str, unit: &str, points: &Points) -> Result<(), Box<dyn Error>> {
    let mut chart = over_time(canvas, title, unit, points)?;
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, BLUE.mix(0.5).filled())))?;
    Ok(())
}

fn line(canvas: &Canvas<'_>, title: &str, unit: &str, points: &Points) -> Result<(), Box<dyn Error>> {
    let mut chart = over_time(canvas, title, unit, points)?;
    chart.draw_series(AreaSeries::new(points.iter().copied(), 0.0, BLUE.mix(0.15)).border_style(BLUE))?;
    Ok(())
}

/// The end of an axis: a little above the largest value, never zero.
fn extent(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max).max(1e-3) * 1.05
}

fn document(report: &LoadReport<'_>, plots: &[String]) -> String {
    let plan = &report.plan;
    let mut page = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<h1>{} callers for {:.0} s</h1><p>{} engines, profile {}, transport {}, scenario “{}” with a cycle \
         of {:.0} s, joined within {:.0} s, seed {}, {} cores, Viva {}. A latency counts only beside the \
         cut-offs of the same run.</p>",
        plan.callers,
        plan.seconds,
        escape(plan.engines),
        escape(plan.profile),
        plan.transport,
        escape(plan.scenario),
        plan.cycle_s,
        plan.ramp_up_s,
        plan.seed,
        plan.cores,
        report.version
    );
    page.push_str("<div class=row><table><tr><th>milliseconds<th>n<th>p50<th>p95<th>p99<th>max</tr>");
    for (name, p) in &report.score.stages_ms {
        row(&mut page, name.split_once(' ').map_or(*name, |(_, name)| name), p);
    }
    row(&mut page, "voice to voice", &report.score.voice_to_voice_ms);
    row(&mut page, "… as played", &report.score.played_ms);
    row(&mut page, "interruption to silence", &report.score.barge_in_silent_ms);
    page.push_str("</table><table>");
    for (name, value) in findings(report.score) {
        let _ = write!(page, "<tr><td>{name}<td>{}</tr>", escape(&value));
    }
    page.push_str("</table></div><div class=row>");
    for plot in plots {
        let _ = write!(page, "<figure>{plot}</figure>");
    }
    page.push_str("</div></main></html>\n");
    page
}

fn row(page: &mut String, name: &str, p: &Percentiles) {
    if p.n > 0 {
        let _ = write!(
            page,
            "<tr><td>{name}<td>{}<td>{:.0}<td>{:.0}<td>{:.0}<td>{:.0}</tr>",
            p.n, p.p50, p.p95, p.p99, p.max
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content='width=device-width,initial-scale=1'><title>Viva load</title><style>\
body{font:15px/1.5 system-ui,sans-serif;margin:0;background:#f6f7f9;color:#1b1f24}\
main{max-width:1600px;margin:0 auto;padding:1.5rem}h1{font-size:1.5rem;margin:0}\
.row{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start;margin-top:1rem}\
table{border-collapse:collapse;background:#fff;border-radius:8px}\
th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #e6e8eb}\
th:first-child,td:first-child{text-align:left}\
figure{margin:0;background:#fff;border-radius:8px;max-width:100%}svg{max-width:100%;height:auto}\
</style><main>";
