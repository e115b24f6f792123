//! The page, written out on this side: a browser shows it whole without running anything, and the script only replaces
//! its parts with newer ones.

mod chart;
mod sections;
mod text;

use std::fmt::Write as _;

use self::text::Plain;
pub use self::text::{ago, bytes};
use super::http::Token;
use super::report::Report;

/// The style sheet.
pub const STYLE: &str = include_str!("style.css");
/// The script.
pub const SCRIPT: &str = include_str!("page.js");
/// The icon.
pub const ICON: &str = include_str!("icon.svg");

const FRAME: &str = include_str!("page.html");

/// The whole page, with the token in its form.
pub fn page(report: &Report, token: &Token) -> String {
    let (before, rest) = FRAME.split_once("{token}").unwrap_or((FRAME, ""));
    let (between, after) = rest.split_once("{live}").unwrap_or((rest, ""));
    [before, token.as_str(), between, &live(report), after].concat()
}

/// The parts that change, each a section with an id.
pub fn live(report: &Report) -> String {
    let mut out = String::with_capacity(16 * 1024);
    sections::state(&mut out, report);
    sections::findings(&mut out, report);
    sections::traffic(&mut out, report);
    sections::circuits(&mut out, report);
    sections::streams(&mut out, report);
    sections::failures(&mut out, report);
    sections::ports(&mut out, report);
    let _ = writeln!(
        out,
        "<p id=\"about\" class=\"quiet\">tunic-client {}, running for {}. The same for programs: \
         <a href=\"/api/v1/status\">/api/v1/status</a>.</p>",
        Plain(&report.version),
        ago(report.uptime_s),
    );
    out
}

#[cfg(test)]
mod tests;
