//! The text format of Prometheus, version 0.0.4.
//!
//! Ours because the maintained crate writes OpenMetrics only, which `promtool check metrics` does not read.

use std::fmt::{Display, Write};
use std::time::Duration;

/// What a family measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// May be anything.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Text(String);

/// The samples of one name.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Text {
    /// Begins a family. Each name may be begun once.
    pub fn family<'a>(&'a mut self, name: &'a str, help: &str, kind: Kind) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text: &mut self.0, name }
    }

    /// The page.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample. Label names and values are of our making: plain words.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, value);
        self
    }

    /// Adds a histogram: the upper bounds of its classes in seconds, how many were in each (the last beyond all bounds) and the
    /// sum. The counts are rounded up to multiples of `bin`, and the sum to a tenth of a second.
    pub fn histogram(&mut self, bounds: &[f64], counts: &[u64], sum: Duration, bin: u64) {
        let mut below = 0;
        for (class, count) in counts.iter().enumerate() {
            below += count;
            let bound = bounds.get(class).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            self.line("_bucket", &[("le", &bound)], super::up(below, bin));
        }
        let tenths = sum.as_millis().div_ceil(100);
        self.line("_sum", &[], format!("{}.{}", tenths / 10, tenths % 10));
        self.line("_count", &[], super::up(below, bin));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.family("a_total", "All.", Kind::Counter).sample(&[("x", "1"), ("y", "2")], 3).sample(&[], 4);
        let took = Duration::from_millis(1_234);
        text.family("b_seconds", "Time.", Kind::Histogram).histogram(&[0.5, 1.0], &[1, 8, 0], took, 8);
        assert_eq!(
            text.into_string(),
            "# HELP a_total All.\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 3\na_total 4\n\
             # HELP b_seconds Time.\n# TYPE b_seconds histogram\nb_seconds_bucket{le=\"0.5\"} 8\n\
             b_seconds_bucket{le=\"1\"} 16\nb_seconds_bucket{le=\"+Inf\"} 16\nb_seconds_sum 1.3\nb_seconds_count 16\n"
        );
    }
}
