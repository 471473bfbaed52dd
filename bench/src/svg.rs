//! Small charts as SVG text: curves over the nines of a latency distribution, and bars against a bound.
//!
//! Every chart's numbers also stand in the report's table.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// One curve: points of (percentile, value).
pub(crate) struct Curve {
    /// Its name in the legend.
    pub(crate) name: String,
    /// Percentiles from 0 to below 100, ascending.
    pub(crate) points: Vec<(f64, f64)>,
}

fn open(title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>text{{font:12px sans-serif;fill:#222}}.axis{{stroke:#888;fill:none}}.bound{{stroke:#b00;stroke-dasharray:6 4}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}}}</style>\n\
         <text x=\"{LEFT}\" y=\"22\" font-weight=\"bold\">{title}</text>\n"
    )
}

/// Latency by percentile. The horizontal axis counts nines (90, 99, 99.9 …), the vertical is linear up to `bound` and
/// a half more; what lies above is clipped.
pub(crate) fn percentiles(title: &str, unit: &str, bound: f64, curves: &[Curve]) -> String {
    const NINES_MAX: f64 = 4.0;
    let value_max = bound * 1.5;
    let x = |percentile: f64| {
        let nines = -(1.0 - percentile / 100.0).max(1e-9).log10();
        LEFT + nines.min(NINES_MAX) / NINES_MAX * (WIDTH - LEFT - RIGHT)
    };
    let y = |value: f64| HEIGHT - BOTTOM - (value / value_max).min(1.0) * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title);
    for percentile in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99] {
        let (at, bottom) = (x(percentile), HEIGHT - BOTTOM);
        let _ = writeln!(svg, "<path class=\"axis\" d=\"M{at:.1} {bottom}v5\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">p{percentile}</text>",
            bottom + 20.0
        );
    }
    for step in 0..=6 {
        let value = value_max * f64::from(step) / 6.0;
        let at = y(value);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0} {unit}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let _ = writeln!(
        svg,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>"
    );
    let _ = writeln!(
        svg,
        "<path class=\"bound\" d=\"M{LEFT} {:.1}H{right}\"/>",
        y(bound)
    );
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut path = String::new();
        for (step, (percentile, value)) in curve.points.iter().enumerate() {
            let command = if step == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(*percentile), y(*value));
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        let at = TOP + 18.0 * index as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{} {at}h16\" stroke=\"{colour}\" stroke-width=\"3\"/>",
            right + 10.0
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\">{}</text>",
            right + 32.0,
            at + 4.0,
            curve.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// One value over time, from zero to the largest and a tenth more.
pub(crate) fn line(title: &str, unit: &str, time_unit: &str, points: &[(f64, f64)]) -> String {
    let largest = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).fold(1.0, f64::max);
    let (length, top) = (largest(|point| point.0), largest(|point| point.1) * 1.1);
    let x = |at: f64| LEFT + at / length * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title);
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let _ = writeln!(
        svg,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>"
    );
    let path: Vec<String> = points
        .iter()
        .map(|(at, value)| format!("{:.1} {:.1}", x(*at), y(*value)))
        .collect();
    let _ = writeln!(
        svg,
        "<path fill=\"none\" stroke=\"{}\" stroke-width=\"2\" d=\"M{}\"/>",
        COLOURS[0],
        path.join("L")
    );
    for (value, at) in [(0.0, bottom), (top, TOP)] {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value:.0} {unit}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{length:.0} {time_unit}</text>\n</svg>",
        bottom + 20.0
    );
    svg
}

/// Horizontal bars against a bound.
pub(crate) fn bars(title: &str, unit: &str, bound: f64, bars: &[(String, f64)]) -> String {
    let value_max = bars.iter().map(|(_, value)| *value).fold(bound, f64::max) * 1.1;
    let (left, row) = (190.0, 44.0);
    let x = |value: f64| left + value / value_max * (WIDTH - left - 90.0);
    let mut svg = open(title);
    for (index, (name, value)) in bars.iter().enumerate() {
        let at = TOP + 10.0 + row * index as f64;
        let (colour, width) = (COLOURS[index % COLOURS.len()], x(*value) - left);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>",
            left - 8.0,
            at + 18.0
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{at}\" width=\"{width:.1}\" height=\"26\" fill=\"{colour}\"/>"
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\">{value:.1} {unit}</text>",
            left + width + 6.0,
            at + 18.0
        );
    }
    let bottom = TOP + 10.0 + row * bars.len() as f64;
    let _ = writeln!(
        svg,
        "<path class=\"bound\" d=\"M{0:.1} {TOP}V{bottom}\"/>",
        x(bound)
    );
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">bound {bound} {unit}</text>",
        x(bound),
        bottom + 18.0
    );
    svg.push_str("</svg>\n");
    svg
}

/// Bars side by side that belong to one case.
pub(crate) struct Group {
    /// The case.
    pub(crate) name: String,
    /// One value per series.
    pub(crate) values: Vec<f64>,
}

/// Horizontal bars in groups, one colour per series.
pub(crate) fn groups(title: &str, unit: &str, series: &[&str], groups: &[Group]) -> String {
    const BAR: f64 = 12.0;
    let values = groups.iter().flat_map(|group| &group.values);
    let value_max = values.copied().fold(0.0, f64::max) * 1.1;
    let (left, row) = (190.0, BAR * series.len() as f64 + 8.0);
    let height = TOP + 30.0 + row * groups.len() as f64;
    let mut svg = open(title).replacen(
        &format!("0 0 {WIDTH} {HEIGHT}"),
        &format!("0 0 {WIDTH} {height}"),
        1,
    );
    for (index, name) in series.iter().enumerate() {
        let (at, colour) = (left + 110.0 * index as f64, COLOURS[index % COLOURS.len()]);
        let _ = writeln!(
            svg,
            "<rect x=\"{at}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"43\">{name}</text>",
            at + 18.0
        );
    }
    for (index, group) in groups.iter().enumerate() {
        let top = TOP + 16.0 + row * index as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            top + BAR * series.len() as f64 / 2.0 + 4.0,
            group.name
        );
        for (place, value) in group.values.iter().enumerate() {
            let (y, colour) = (top + BAR * place as f64, COLOURS[place % COLOURS.len()]);
            let width = value / value_max * (WIDTH - left - 90.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{value:.1} {unit}</text>",
                BAR - 1.0,
                left + width + 6.0,
                y + BAR - 2.0
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
