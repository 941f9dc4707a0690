//! A scenario over time, as SVG: Secrets written, memory, and the provider's reads.

use std::path::Path;

use plotters::prelude::*;

use super::measure::Sample;
use super::report::Report;

type Failure = Box<dyn std::error::Error>;

const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const BARE: RGBColor = RGBColor(0xd9, 0x7a, 0x1e);

/// Draws a report into a file.
///
/// # Errors
/// When the file can't be written.
pub fn draw(report: &Report, path: &Path) -> Result<(), Failure> {
    let with_reads = !report.reads_by_second.is_empty();
    let root = SVGBackend::new(path, (880, if with_reads { 760 } else { 540 })).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(&format!("{}: {}", report.scenario, report.title), ("sans-serif", 18))?;
    let panels = root.split_evenly((if with_reads { 3 } else { 2 }, 1));
    let bare = report.bare.as_ref().map_or(&[][..], |b| &b.series);
    let end = report.ours.series.iter().chain(bare).map(|s| s.at).fold(1.0, f64::max).max(report.reads_by_second.len() as f64);
    panel(
        &panels[0],
        "Secrets written",
        end,
        &[
            ("Lockstep", OURS, points(&report.ours.series, |s| s.secrets as f64)),
            ("bare client", BARE, points(bare, |s| s.secrets as f64)),
        ],
    )?;
    panel(
        &panels[1],
        "memory, MB",
        end,
        &[("Lockstep", OURS, points(&report.ours.series, |s| s.rss_mb)), ("bare client", BARE, points(bare, |s| s.rss_mb))],
    )?;
    if with_reads {
        let reads = report.reads_by_second.iter().enumerate().map(|(t, n)| (t as f64, *n as f64)).collect();
        panel(&panels[2], "provider reads in a second", end, &[("Lockstep", OURS, reads)])?;
    }
    root.present()?;
    Ok(())
}

fn points(series: &[Sample], value: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    // Some hundred points are as many as the picture shows.
    let step = series.len().div_ceil(400).max(1);
    series.iter().step_by(step).chain(series.last()).map(|s| (s.at, value(s))).collect()
}

type Line = (&'static str, RGBColor, Vec<(f64, f64)>);

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    what: &str,
    end: f64,
    lines: &[Line],
) -> Result<(), Failure> {
    let top = lines.iter().flat_map(|l| &l.2).map(|p| p.1).fold(1.0, f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(what, ("sans-serif", 14))
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("seconds").label_style(("sans-serif", 12)).draw()?;
    for (name, colour, points) in lines.iter().filter(|l| !l.2.is_empty()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}
