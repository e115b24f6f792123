//! Draws the screen: who the relay is; traffic in both directions; circuits and what costs most; what is amiss; the log.

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};

use super::state::State;
use super::words::{bytes, duration};
use crate::core::top::{Cost, Finding, Flow, Order, Sample, Weight, findings, per_second};
use tunic_net::recent::plain;

/// Lines for what is amiss, at the most.
const MAX_FINDINGS: usize = 4;
/// Lines of the parts above and below everything.
const HEAD_HEIGHT: u16 = 2;
const FOOT_HEIGHT: u16 = 1;
/// Lines of a graph with its title, at the least.
const MIN_GRAPH_HEIGHT: u16 = 4;
/// Lines of the part with circuits and costs: a border, six states or channels.
const TABLE_HEIGHT: u16 = 7;
/// Columns of the part with circuits.
const CIRCUITS_WIDTH: u16 = 24;

/// Draws what is shown.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let Some(sample) = &state.sample else {
        let text = state.problem.as_deref().unwrap_or("waiting for the relay");
        return frame.render_widget(Paragraph::new(plain(text)), frame.area());
    };
    let found = findings(sample, &state.history);
    let amiss = found.len().clamp(1, MAX_FINDINGS) as u16;
    let fixed = HEAD_HEIGHT + TABLE_HEIGHT + amiss + FOOT_HEIGHT;
    let free = frame.area().height.saturating_sub(fixed);
    let [head, graphs, tables, warnings, log, foot] = Layout::vertical([
        Constraint::Length(HEAD_HEIGHT),
        Constraint::Length((free / 2).max(MIN_GRAPH_HEIGHT)),
        Constraint::Length(TABLE_HEIGHT),
        Constraint::Length(amiss),
        Constraint::Fill(1),
        Constraint::Length(FOOT_HEIGHT),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(about(sample)), head);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(graphs);
    graph(frame, left, state, "in", Color::Cyan, |flow| flow.received);
    graph(frame, right, state, "out", Color::Green, |flow| flow.sent);
    let [left, right] =
        Layout::horizontal([Constraint::Length(CIRCUITS_WIDTH), Constraint::Fill(1)]).areas(tables);
    circuits(frame, left, sample);
    costs(frame, right, sample, state.order);
    let lines: Vec<Line<'_>> = match found.as_slice() {
        [] => vec!["nothing is amiss".green().into()],
        found => found.iter().take(MAX_FINDINGS).map(in_colour).collect(),
    };
    frame.render_widget(Paragraph::new(lines), warnings);
    last_lines(frame, log, sample, state.scrolled);
    frame.render_widget(Paragraph::new(keys(state)), foot);
}

fn about(sample: &Sample) -> Vec<Line<'_>> {
    let listed = match (sample.is_listed, sample.consensus_relays) {
        (true, relays) => format!("listed, 1 of {relays} relays"),
        (false, 0) => "no consensus".to_owned(),
        (false, _) => "not listed".to_owned(),
    };
    let kind = if sample.is_exit { "exit" } else { "relay" };
    let up = duration(sample.now.saturating_sub(sample.started));
    let connected = sample.streams.get("connected").copied().unwrap_or(0);
    let files = match sample.files.limit {
        0 => sample.files.used.to_string(),
        limit => format!("{}/{limit}", sample.files.used),
    };
    vec![
        Line::from(vec![
            "tunic-relay ".bold(),
            plain(&sample.version).into(),
            "  ".into(),
            plain(&sample.nickname).bold(),
            format!("  {kind}  up {up}  {listed}").into(),
        ]),
        Line::from(format!(
            "queues {}/{}  memory {}  files {files}  channels {}  streams {connected}",
            bytes(sample.memory.used),
            bytes(sample.memory.limit),
            bytes(sample.resident_bytes),
            sample.channels
        )),
    ]
}

fn graph(
    frame: &mut Frame<'_>,
    area: Rect,
    state: &State,
    name: &str,
    colour: Color,
    pick: impl Fn(Flow) -> u64,
) {
    let rates = state.history.rates(usize::from(area.width), pick);
    let now = rates.last().copied().unwrap_or(0);
    let average =
        rates.iter().fold(0, |sum: u64, rate| sum.saturating_add(*rate)) / rates.len().max(1) as u64;
    let peak = rates.iter().max().copied().unwrap_or(0);
    let title = format!(" {name} {}/s avg {} max {} ", bytes(now), bytes(average), bytes(peak));
    let block = Block::new().borders(Borders::TOP).title(title);
    // The newest stands at the right edge.
    let missing = usize::from(area.width).saturating_sub(rates.len());
    let bars: Vec<u64> = std::iter::repeat_n(0, missing).chain(rates).collect();
    let style = Style::new().fg(colour);
    frame.render_widget(Sparkline::default().block(block).data(bars).max(peak.max(1)).style(style), area);
}

fn circuits(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let sum: u64 = sample.circuits.values().sum();
    let rows = sample.circuits.iter().map(|(state, count)| {
        let label = plain(state).replace('_', " ");
        Row::new([label, count.to_string()])
    });
    let block = Block::new().borders(Borders::TOP).title(format!(" circuits {sum} "));
    let widths = [Constraint::Length(12), Constraint::Length(8)];
    frame.render_widget(Table::new(rows, widths).block(block), area);
}

fn costs(frame: &mut Frame<'_>, area: Rect, sample: &Sample, order: Order) {
    let rate = |count| per_second(count, sample.period_ms);
    let row = |cost: &Cost| {
        let kind = if cost.is_relay { "relay" } else { "client" };
        Row::new([
            format!("{kind} {}", cost.channel),
            bytes(rate(cost.bytes.received)),
            bytes(rate(cost.bytes.sent)),
            rate(cost.handshakes).to_string(),
            cost.circuits.to_string(),
            bytes(cost.queued),
        ])
    };
    let rows = order.sorted(sample).into_iter().map(row);
    let widths = [13, 8, 8, 6, 8, 8].map(Constraint::Length);
    let header = Row::new(["channel", "in/s", "out/s", "hs/s", "circuits", "queue"]).dim();
    let title = format!(" what costs most, by {} ", order.label());
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Table::new(rows, widths).header(header).block(block), area);
}

fn in_colour(finding: &Finding) -> Line<'_> {
    let (mark, colour) = match finding.weight {
        Weight::Bad => ("problem: ", Color::Red),
        Weight::Warning => ("warning: ", Color::Yellow),
        Weight::Note => ("note: ", Color::Blue),
    };
    Line::from(vec![Span::styled(mark, Style::new().fg(colour)), plain(&finding.text).into()])
}

fn last_lines(frame: &mut Frame<'_>, area: Rect, sample: &Sample, scrolled: usize) {
    let block = Block::new().borders(Borders::TOP).title(" log ");
    let shown = usize::from(block.inner(area).height);
    let end = sample.log.len().saturating_sub(scrolled);
    let start = end.saturating_sub(shown);
    let lines: Vec<Line<'_>> = sample.log[start..end].iter().map(|line| plain(line).into()).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn keys(state: &State) -> Line<'_> {
    let keys = "q quit  p pause  ←→ order  ↑↓ log".dim();
    match (&state.problem, state.is_paused) {
        (Some(problem), _) => Line::from(vec![plain(problem).red(), "  q quit".dim()]),
        (None, true) => Line::from(vec!["PAUSED  ".bold(), keys]),
        (None, false) => keys.into(),
    }
}

/// The screen as text, in so many columns and lines.
pub(super) fn as_text(state: &State, (width, height): (u16, u16)) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(drawn) = terminal.draw(|frame| draw(frame, state));
    let cells = drawn.buffer.content().chunks(usize::from(width.max(1)));
    let line = |cells: &[ratatui::buffer::Cell]| {
        let text: String = cells.iter().map(|cell| cell.symbol()).collect();
        text.trim_end().to_owned() + "\n"
    };
    cells.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::top::Share;
    use std::collections::BTreeMap;

    fn sample(received: u64) -> Sample {
        let cost = |channel, is_relay, received, handshakes, queued| Cost {
            channel,
            is_relay,
            bytes: Flow { received, sent: 0 },
            handshakes,
            circuits: 5,
            queued,
        };
        Sample {
            version: "1.2.3".into(),
            nickname: "example".into(),
            now: 1_000_000,
            started: 1_000_000 - 93_600,
            period_ms: 1_000,
            is_listed: true,
            consensus_relays: 7,
            consensus_until: 1_005_000,
            certificate_until: 1_900_000,
            memory: Share { used: 3 << 20, limit: 512 << 20 },
            resident_bytes: 40 << 20,
            files: Share { used: 31, limit: 65_536 },
            bytes: Flow { received, sent: received / 2 },
            channels: 3,
            circuits: BTreeMap::from([("passing".to_owned(), 41), ("ends_here".to_owned(), 2)]),
            streams: BTreeMap::from([("connected".to_owned(), 77)]),
            refused: BTreeMap::from([("circuit_rate".to_owned(), 12)]),
            costs: vec![cost(4, true, 900, 0, 0), cost(9, false, 100, 6, 1 << 20)],
            log: (1..=30).map(|n| format!("log line {n}")).collect(),
            ..Sample::default()
        }
    }

    fn state() -> State {
        let mut state = State::default();
        for received in [0, 1 << 20, 2 << 20] {
            state.take(sample(received));
        }
        state
    }

    #[track_caller]
    fn check(screen: &str, expect: &[&str]) {
        for text in expect {
            assert!(screen.contains(text), "no {text:?} in\n{screen}");
        }
    }

    #[test]
    fn everything_fits_the_smallest_usual_terminal() {
        let screen = as_text(&state(), (80, 24));
        assert_eq!(screen.lines().count(), 24, "{screen}");
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        check(
            &screen,
            &[
                "tunic-relay 1.2.3  example  relay  up 1 d 2 h  listed, 1 of 7 relays",
                "queues 3.0 MiB/512 MiB  memory 40 MiB  files 31/65536  channels 3  streams 77",
                " in 2.0 MiB/s avg 1.0 MiB max 2.0 MiB ",
                " out 1.0 MiB/s avg 512 KiB max 1.0 MiB ",
                " circuits 43 ",
                "ends here    2",
                "passing      41",
                "what costs most, by traffic",
                "relay 4       900 B",
                "client 9      100 B",
                "note: refused in the last minute: 36 circuit_rate",
                "log line 30",
                "q quit  p pause",
            ],
        );
        assert!(screen.contains('█'), "{screen}");
    }

    #[test]
    fn the_newest_second_stands_at_the_right_edge_and_the_peak_fills_the_graph() {
        let screen = as_text(&state(), (80, 24));
        let lines: Vec<Vec<char>> = screen.lines().map(|line| line.chars().collect()).collect();
        let title = lines.iter().position(|line| line.iter().collect::<String>().contains(" in ")).unwrap();
        let column =
            |x: usize| lines[title + 1..].iter().map(move |line| line.get(x).copied().unwrap_or(' '));
        assert_eq!(column(39).next(), Some('█'));
        assert_eq!(column(38).next(), Some(' '), "half the peak leaves the top free");
        assert_eq!(column(37).next(), Some(' '));
    }

    #[test]
    fn order_pause_and_scrolling_are_seen() {
        let mut state = State { order: Order::Memory, is_paused: true, scrolled: 2, ..state() };
        let screen = as_text(&state, (80, 24));
        let place = |text: &str| screen.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{screen}"));
        assert!(place("client 9") < place("relay 4"), "{screen}");
        check(&screen, &["by queue", "PAUSED", "log line 28"]);
        assert!(!screen.contains("log line 29"), "{screen}");
        state.problem = Some("the relay has ended".into());
        check(&as_text(&state, (80, 24)), &["the relay has ended", "q quit"]);
    }

    #[test]
    fn any_size_can_be_drawn() {
        for size in [(1, 1), (20, 5), (40, 60), (300, 100), (80, 3)] {
            as_text(&state(), size);
            as_text(&State::default(), size);
        }
        check(&as_text(&State::default(), (80, 24)), &["waiting for the relay"]);
        check(&as_text(&state(), (120, 40)), &["log line 17", "log line 30"]);
    }

    #[test]
    fn what_the_relay_says_gives_the_terminal_no_orders() {
        let mut hostile = sample(1);
        hostile.nickname = "\u{1b}[2Jevil".into();
        hostile.log = vec!["\u{1b}]0;title\u{7}\u{9b}31m".into()];
        let mut state = State::default();
        state.take(hostile);
        let screen = as_text(&state, (80, 24));
        assert!(screen.chars().all(|c| c == '\n' || !c.is_control()), "{screen:?}");
        check(&screen, &["evil"]);
    }
}
