//! What is shown, and what keys change of it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::core::top::{History, Order, Sample};

/// What is shown.
#[derive(Default)]
pub(super) struct State {
    /// The newest sample; `None` before the first.
    pub(super) sample: Option<Sample>,
    /// The samples before.
    pub(super) history: History,
    /// By what channels are ordered.
    pub(super) order: Order,
    /// Nothing new is shown.
    pub(super) is_paused: bool,
    /// How many of the newest log lines are below what is shown.
    pub(super) scrolled: usize,
    /// Why there is nothing new, if there is not.
    pub(super) problem: Option<String>,
}

impl State {
    /// Takes in what the relay told.
    pub(super) fn take(&mut self, sample: Sample) {
        self.problem = None;
        if !self.is_paused {
            self.history.add(&sample);
            self.sample = Some(sample);
        }
    }

    /// Does what a key asks for; whether to go on.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            _ if is_interrupt => return false,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Left => self.order = self.order.turned(false),
            KeyCode::Right => self.order = self.order.turned(true),
            KeyCode::Up => self.scrolled = (self.scrolled + 1).min(self.most_scrolled()),
            KeyCode::Down => self.scrolled = self.scrolled.saturating_sub(1),
            _ => {}
        }
        true
    }

    fn most_scrolled(&self) -> usize {
        self.sample.as_ref().map_or(0, |sample| sample.log.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut State, code: KeyCode) -> bool {
        state.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_pause_order_scroll_and_end() {
        let mut state = State::default();
        state.take(Sample { nickname: "old".into(), log: vec![String::new(); 3], ..Sample::default() });
        assert!(press(&mut state, KeyCode::Char('p')) && state.is_paused);
        state.take(Sample { nickname: "new".into(), ..Sample::default() });
        assert_eq!(state.sample.as_ref().unwrap().nickname, "old");
        press(&mut state, KeyCode::Char('p'));
        (0..9).for_each(|_| assert!(press(&mut state, KeyCode::Up)));
        assert_eq!(state.scrolled, 2);
        press(&mut state, KeyCode::Down);
        assert_eq!(state.scrolled, 1);
        press(&mut state, KeyCode::Left);
        assert_eq!(state.order, Order::Memory);
        press(&mut state, KeyCode::Right);
        assert_eq!(state.order, Order::Traffic);
        state.take(Sample { nickname: "new".into(), ..Sample::default() });
        assert_eq!(state.sample.as_ref().unwrap().nickname, "new");
        assert!(press(&mut state, KeyCode::Char('x')));
        assert!(!press(&mut state, KeyCode::Char('q')) && !press(&mut state, KeyCode::Esc));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!state.press(interrupt));
    }
}
