//! The last lines of the log, for whoever asks the running daemon (`tunic-relay top`).
//!
//! Lines of the default level and above only, which hold no address, name or key, also where finer ones are logged.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that are kept; the oldest go first.
pub const MAX_LINES: usize = 50;
/// Characters of a line that are kept.
pub const MAX_LINE_CHARS: usize = 300;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// The last lines, the oldest first.
pub fn lines() -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

fn keep(line: &[u8]) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() >= MAX_LINES {
        lines.pop_front();
    }
    lines.push_back(plain(&String::from_utf8_lossy(line)));
}

/// Without line ends, colours and whatever else a terminal would take for an order.
pub fn plain(line: &str) -> String {
    let (mut text, mut in_sequence) = (String::new(), false);
    for c in line.chars() {
        match c {
            '\u{1b}' => in_sequence = true,
            'a'..='z' | 'A'..='Z' if in_sequence => in_sequence = false,
            _ if in_sequence || c.is_control() => {}
            _ => text.push(c),
        }
    }
    text.chars().take(MAX_LINE_CHARS).collect()
}

/// Writes lines to stderr, and keeps those of the default level.
pub(crate) struct Tee;

/// One event on its way.
pub(crate) struct Line {
    keeps: bool,
}

impl<'a> MakeWriter<'a> for Tee {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { keeps: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line { keeps: *event.level() <= Level::INFO }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    /// An event comes whole.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.keeps {
            keep(bytes);
        }
        io::stderr().lock().write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_plain_and_short() {
        assert_eq!(plain("\u{1b}[2m2026\u{1b}[0m \u{1b}[33mWARN\u{1b}[0m full\u{7}\r\n"), "2026 WARN full");
        assert_eq!(plain(&"ä".repeat(1_000)).chars().count(), MAX_LINE_CHARS);
    }

    #[test]
    fn what_is_finer_than_the_default_is_not_kept_and_the_oldest_goes_first() {
        let log = tracing_subscriber::fmt().with_writer(Tee).with_max_level(Level::TRACE).finish();
        tracing::subscriber::with_default(log, || {
            tracing::debug!("secret detail");
            for number in 0..=MAX_LINES {
                tracing::info!("line {number}.");
            }
            tracing::warn!("the last");
        });
        let kept = lines();
        assert_eq!(kept.len(), MAX_LINES);
        assert!(kept[0].contains("line 2.") && kept[MAX_LINES - 1].contains("WARN"), "{kept:?}");
        assert!(kept.iter().all(|line| !line.contains("secret")), "{kept:?}");
    }
}
