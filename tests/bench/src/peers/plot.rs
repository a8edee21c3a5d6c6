//! The rates as a picture: a panel for each workload and family, a group of bars for each number of rules.

use std::fmt::Write as _;

use taskgate_model::Family;

use super::{
    filter::PacketFilter,
    report::PeersReport,
    workload::{SERIES, Workload},
};
use crate::spread::Spread;

/// Lengths are in pixels.
const PANEL: (f64, f64) = (440.0, 190.0);
/// The part of a panel that its bars use.
const FIELD: (f64, f64) = (370.0, 110.0);
/// The origin of the bars in a panel.
const ORIGIN: (f64, f64) = (60.0, 140.0);
/// Above the panels: the legend.
const HEAD: f64 = 50.0;
const COLUMNS: usize = 2;

/// Colours that people with any colour vision can tell apart (Okabe and Ito).
const fn colour(filter: PacketFilter) -> &'static str {
    match filter {
        PacketFilter::Absent => "#000000",
        PacketFilter::NftLinear => "#E69F00",
        PacketFilter::NftSets => "#56B4E9",
        PacketFilter::NftFlowtable => "#0072B2",
        PacketFilter::Ipset => "#CC79A7",
        PacketFilter::Taskgate => "#009E73",
    }
}

/// Draws the report as SVG.
pub fn svg(report: &PeersReport) -> String {
    let rows = float(SERIES.len().div_ceil(COLUMNS));
    let (width, height) = (PANEL.0 * float(COLUMNS), HEAD + PANEL.1 * rows);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (place, filter) in PacketFilter::ALL.into_iter().enumerate() {
        let x = 20.0 + 140.0 * float(place);
        let _infallible = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"24\">{filter}</text>",
            colour(filter),
            x + 17.0
        );
    }
    let note = if report.quick {
        "quick run: not to be quoted"
    } else {
        "medians; thin lines: least and most; dashed: no filter"
    };
    let _infallible = writeln!(svg, "<text x=\"20\" y=\"42\" fill=\"#555555\">{note}</text>");
    for (place, (workload, family)) in SERIES.into_iter().enumerate() {
        let x = PANEL.0 * float(place % COLUMNS) + ORIGIN.0;
        let y = HEAD + PANEL.1 * float(place / COLUMNS) + ORIGIN.1;
        panel(&mut svg, report, (workload, family), (x, y));
    }
    svg + "</svg>\n"
}

/// Draws the bars of a series to the right of `x` and above `y`.
fn panel(svg: &mut String, report: &PeersReport, (workload, family): (Workload, Family), (x, y): (f64, f64)) {
    let counts = report.counts();
    let bars = counts.iter().map(|&rules| {
        let bars = PacketFilter::ALL
            .into_iter()
            .filter(|&filter| filter != PacketFilter::Absent);
        bars.map(move |filter| (filter, report.rate(filter, rules, workload, family)))
    });
    let bars: Vec<Vec<(PacketFilter, Option<Spread>)>> = bars.map(Iterator::collect).collect();
    let absent = report.rate(PacketFilter::Absent, 0, workload, family);
    let most = bars.iter().flatten().filter_map(|(_, rate)| *rate).chain(absent);
    let top = ceiling(most.map(|rate| rate.most).fold(0.0, f64::max));
    let up = |value: f64| y - value / top * FIELD.1;

    let _infallible = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{workload}, {family}, {}</text>",
        y - FIELD.1 - 10.0,
        workload.unit()
    );
    for share in [0.0, 0.5, 1.0] {
        let at = up(top * share);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#cccccc\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x + FIELD.0,
            x - 5.0,
            at + 4.0,
            top * share
        );
    }
    let group = FIELD.0 / float(counts.len().max(1));
    let width = group * 0.8 / 5.0;
    for (place, (rules, bars)) in counts.iter().zip(&bars).enumerate() {
        let from = x + group * (float(place) + 0.1);
        for (place, (filter, rate)) in bars.iter().enumerate() {
            let from = from + width * float(place);
            let middle = from + width / 2.0;
            let _infallible = match rate {
                Some(Spread { median, least, most }) => writeln!(
                    svg,
                    "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                     <line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#333333\"/>",
                    up(*median),
                    width - 1.0,
                    y - up(*median),
                    colour(*filter),
                    up(*least),
                    up(*most)
                ),
                None => writeln!(
                    svg,
                    "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{}\">?</text>",
                    y - 3.0,
                    colour(*filter)
                ),
            };
        }
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{rules} {}</text>",
            x + group * (float(place) + 0.5),
            y + 15.0,
            if *rules == 1 { "rule" } else { "rules" }
        );
    }
    if let Some(absent) = absent {
        let at = up(absent.median);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{}\" stroke-dasharray=\"4 3\"/>",
            x + FIELD.0,
            colour(PacketFilter::Absent)
        );
    }
}

/// A small number of things.
fn float(number: usize) -> f64 {
    f64::from(number as u32)
}

/// The end of an axis for this value: twice a round number, so that the middle of the axis is round too.
fn ceiling(value: f64) -> f64 {
    let unit = 10_f64.powf(value.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps
        .map(|step| step * unit)
        .into_iter()
        .find(|end| *end >= value)
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_above_its_values_at_a_round_number() {
        for (value, end) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.5, 2.0),
            (17_000.0, 20_000.0),
            (730_000.0, 800_000.0),
        ] {
            assert!(
                (ceiling(value) - end).abs() < f64::EPSILON,
                "{value}: {}",
                ceiling(value)
            );
        }
    }

    #[test]
    fn a_bar_is_as_high_as_its_rate_and_a_missing_one_is_marked() {
        let svg = svg(&super::super::report::tests::report());
        // 900 of 1,000 Mbit/s, and no figure for three filters in two panels, and for four in each of eight.
        assert!(svg.contains("height=\"49.5\" fill=\"#009E73\""), "{svg}");
        assert_eq!(svg.matches(">?</text>").count(), 3 * 2 + 5 * 8);
        assert_eq!(svg.matches("stroke-dasharray").count(), 1);
        assert!(svg.contains("quick run: not to be quoted"));
    }
}
