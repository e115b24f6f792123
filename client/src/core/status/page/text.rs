//! How values are written.

use std::fmt;

/// Text that is shown as it is, whatever it holds: relays choose their nicknames themselves.
pub(super) struct Plain<'a>(pub(super) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        Ok(())
    }
}

/// A number of bytes in its largest unit, three digits.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1_024.0;
    }
    format!("{value:.1} TiB")
}

/// A length of time, short.
pub fn ago(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3_600 => format!("{} min", secs / 60),
        3_600..86_400 => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// Milliseconds, with digits only where they say something.
pub(super) fn ms(value: f64) -> String {
    if value < 9.95 { format!("{value:.1} ms") } else { format!("{value:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_relay_calls_itself_becomes_markup() {
        let said = Plain("<script>'\"&").to_string();
        assert_eq!(said, "&lt;script&gt;&#39;&quot;&amp;");
    }

    #[test]
    fn values_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_024, 102_400, 1 << 20].map(bytes),
            ["0 B", "999 B", "1.0 KiB", "1.0 KiB", "100 KiB", "1.0 MiB"]
        );
        assert_eq!([u64::MAX, 3 << 40].map(bytes), ["16777216.0 TiB", "3.0 TiB"]);
        assert_eq!(
            [0, 59, 60, 3_599, 3_600, 90_000].map(ago),
            ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "1 d 1 h"]
        );
        assert_eq!([0.04, 9.9, 12.3].map(ms), ["0.0 ms", "9.9 ms", "12 ms"]);
    }
}
