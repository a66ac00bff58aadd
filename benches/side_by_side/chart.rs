//! Figures as a chart to look at.

use std::fmt::Write as _;

use crate::peers::PROXIES;
use crate::round::Outcome;

/// Bars of the ratios, one group for each scenario.
pub(crate) fn chart(outcomes: &[Outcome]) -> String {
    const LEFT: f64 = 270.0;
    const SCALE: f64 = 160.0;
    const BAR: f64 = 9.0;
    let colours = [
        ("nginx", "#3a9e5c"),
        ("haproxy", "#3b7dd8"),
        ("tollgate", "#d9480f"),
        ("pingora", "#9aa0a6"),
    ];
    let shown = |o: &&Outcome| o.is_of(&PROXIES) && o.ratio(PROXIES.ours).is_some();
    let rows: Vec<&Outcome> = outcomes.iter().filter(shown).collect();
    let group = BAR * 4.0 + 12.0;
    let height = 60.0 + group * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Cost as a multiple of the better of nginx and HAProxy: shorter is better</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, (name, colour)) in colours.iter().enumerate() {
        let x = LEFT + 110.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"22\">{name}</text>",
            x + 18.0
        );
    }
    for (row, outcome) in rows.iter().enumerate() {
        let top = 44.0 + group * row as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            top + group / 2.0 - 4.0,
            outcome.scenario.title.replace('&', "&amp;")
        );
        for (index, (name, colour)) in colours.iter().enumerate() {
            let Some(ratio) = outcome.ratio(name) else { continue };
            let (y, width) = (top + BAR * index as f64, (ratio * SCALE).min(520.0));
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" \
                 fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" font-size=\"9\">{ratio:.2}</text>",
                BAR - 1.0,
                LEFT + width + 4.0,
                y + BAR - 2.0
            );
        }
    }
    let x = LEFT + SCALE;
    let _ = write!(
        svg,
        "<line x1=\"{x}\" y1=\"36\" x2=\"{x}\" y2=\"{}\" stroke=\"#000\" \
         stroke-dasharray=\"3 3\"/>\n</svg>\n",
        height - 8.0
    );
    svg
}
