//! The last minute of throughput, and the shares of a circuit's hops, as drawings without a line of script.

use std::fmt::Write as _;

use super::text::bytes;
use crate::core::status::rates::HISTORY;
use crate::core::status::report::HopReport;

/// Units of the drawing: ten for each second, and so many for the largest value.
const SECOND: usize = 10;
const HEIGHT: u64 = 100;
/// Less than this fills the height, so that a few cells do not look like a flood.
const LEAST_TOP: u64 = 16 * 1_024;

/// Received as an area, sent as a line; the newest second is at the right edge.
pub(super) fn throughput(out: &mut String, history: &[(u64, u64)]) {
    let history = &history[history.len().saturating_sub(HISTORY)..];
    let top = history.iter().map(|(sent, received)| *sent.max(received)).max().unwrap_or(0).max(LEAST_TOP);
    let first = HISTORY - history.len();
    let points = |of: fn(&(u64, u64)) -> u64| {
        let mut points = String::new();
        for (number, second) in history.iter().enumerate() {
            let height = (u128::from(of(second)) * u128::from(HEIGHT) / u128::from(top)) as u64;
            let _ = write!(points, "{},{} ", (first + number) * SECOND, HEIGHT - height.min(HEIGHT));
        }
        points
    };
    let width = (HISTORY - 1) * SECOND;
    let (sent, received) = (points(|second| second.0), points(|second| second.1));
    let _ = write!(
        out,
        "<figure><svg class=\"chart\" viewBox=\"0 -2 {width} {}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Throughput of the last minute, {} per second at most\">\
         <path class=\"grid\" d=\"M0 {HEIGHT}H{width}M0 {}H{width}M0 0H{width}\"/>",
        HEIGHT + 4,
        bytes(top),
        HEIGHT / 2,
    );
    if !history.is_empty() {
        let _ = write!(
            out,
            "<polygon class=\"received\" points=\"{},{HEIGHT} {received}{width},{HEIGHT}\"/>\
             <polyline class=\"received-edge\" points=\"{received}\"/><polyline class=\"sent-edge\" points=\"{sent}\"/>",
            first * SECOND,
        );
    }
    let _ = writeln!(
        out,
        "</svg><figcaption><span>a minute ago</span><span>top: {}/s</span><span>now</span></figcaption></figure>",
        bytes(top)
    );
}

/// One bar, divided as the hops share the time.
pub(super) fn shares(out: &mut String, hops: &[HopReport]) {
    if hops.iter().all(|hop| hop.share_percent.is_none()) {
        return;
    }
    out.push_str(
        "<svg class=\"shares\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
    );
    let mut from = 0;
    for (number, hop) in hops.iter().enumerate() {
        let share = u64::from(hop.share_percent.unwrap_or(0)).min(100 - from);
        let _ =
            write!(out, "<rect class=\"hop{}\" x=\"{from}\" width=\"{share}\" height=\"4\"/>", number % 3);
        from += share;
    }
    out.push_str("</svg>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_stays_within_its_frame() {
        let mut out = String::new();
        throughput(&mut out, &[(u64::MAX, 0), (0, u64::MAX), (7, 7)]);
        assert!(out.contains("570,0 580,100 590,100"), "{out}");
        assert!(out.contains("570,100 580,0 590,100"), "{out}");
        let mut none = String::new();
        throughput(&mut none, &[]);
        assert!(none.contains("16.0 KiB") && !none.contains("polyline"), "{none}");
        let mut long = String::new();
        throughput(&mut long, &[(0, 0); 500]);
        assert_eq!(long.matches("590,100").count(), 4, "an area with its corner, and two lines");
    }

    #[test]
    fn shares_never_exceed_the_bar() {
        let hop = |share| HopReport { share_percent: Some(share), ..HopReport::default() };
        let mut out = String::new();
        shares(&mut out, &[hop(34), hop(34), hop(34)]);
        assert!(out.contains("x=\"68\" width=\"32\""), "{out}");
        let mut none = String::new();
        shares(&mut none, &[HopReport::default()]);
        assert!(none.is_empty());
    }
}
