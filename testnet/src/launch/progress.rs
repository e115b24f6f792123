//! Shows on stderr how far the network is: bars at a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::milestones::{Milestones, Step};

/// How often the spinners turn.
const TICK: Duration = Duration::from_millis(100);

/// The display.
pub struct Progress {
    started: Instant,
    shown: Vec<(usize, usize)>,
    bars: Option<Vec<ProgressBar>>,
}

impl Progress {
    /// Bars if stderr is a terminal, lines if not. Times are counted from `started`.
    pub fn on_stderr(started: Instant) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            Step::ALL.iter().map(|step| bar(&all, *step)).collect()
        });
        Progress { started, shown: vec![(0, 0); Step::ALL.len()], bars }
    }

    /// Shows what has changed.
    pub fn update(&mut self, milestones: &Milestones, now: Instant) {
        for (i, step) in Step::ALL.into_iter().enumerate() {
            let (done, total) = milestones.progress(step);
            if self.shown[i] == (done, total) {
                continue;
            }
            self.shown[i] = (done, total);
            match &self.bars {
                Some(bars) => show_bar(&bars[i], done, total),
                None if done == 0 => {}
                None => eprintln!("{}", line(now.duration_since(self.started), step, done, total)),
            }
        }
    }

    /// Takes the bars away, so that what follows stands alone.
    pub fn clear(&mut self) {
        for bar in self.bars.iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

fn bar(all: &MultiProgress, step: Step) -> ProgressBar {
    // Added before it draws for the first time: what it drew alone would stay on the screen.
    let bar = all.add(ProgressBar::new(1));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg:<30} {bar:24} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.set_message(step.label());
    bar.enable_steady_tick(TICK);
    bar
}

fn show_bar(bar: &ProgressBar, done: usize, total: usize) {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
    if done >= total {
        bar.disable_steady_tick();
    }
}

fn line(after: Duration, step: Step, done: usize, total: usize) -> String {
    let time = format!("{:5.1} s", after.as_secs_f32());
    match total {
        1 => format!("{time}  {}", step.label()),
        _ => format!("{time}  {}: {done} of {total}", step.label()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_how_much() {
        let after = Duration::from_millis(1_240);
        assert_eq!(line(after, Step::Listed, 2, 6), "  1.2 s  relays listed: 2 of 6");
        assert_eq!(line(after, Step::Circuit, 1, 1), "  1.2 s  circuits built");
    }
}
