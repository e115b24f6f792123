//! What `demo` tells, in plain words.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::launch::ready::PAGE;

/// What one relay logged, with the names that its neighbours' keys stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The relay.
    pub(super) relay: String,
    /// On the side of the client.
    pub(super) before: String,
    /// On the other side.
    pub(super) after: String,
}

/// The whole story of a page at this address that came back over these relays.
pub(super) fn tell(page: SocketAddr, seen: &[Seen]) -> String {
    let path: Vec<&str> = seen.iter().map(|seen| seen.relay.as_str()).collect();
    let mut text = format!(
        "A page was fetched through {} relays. It says:\n  {PAGE}\n\
         The way there:\n  you - {} - the page at {page}\n\n\
         What each relay learned about it, from its own log:\n",
        seen.len(),
        path.join(" - "),
    );
    for (number, seen) in seen.iter().enumerate() {
        text.push_str(&chapter(seen, number == 0, number + 1 == path.len()));
    }
    text.push_str(
        "\nNo relay knows both you and the page. To learn who visits what, the first and\n\
         the last would have to put their logs together, or somebody would have to\n\
         watch both ends.",
    );
    text
}

fn chapter(seen: &Seen, is_first: bool, is_last: bool) -> String {
    let (position, knows) = match (is_first, is_last) {
        (true, false) => ("guard", "It knows that you use Tunic. It does not know for what."),
        (false, false) => ("middle", "It knows neither you nor the page."),
        (false, true) => ("exit", "It knows which page is visited. It does not know by whom."),
        (true, true) => ("the only relay", "It knows you and the page: one relay is not enough."),
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {} ({position})", seen.relay);
    let _ = writeln!(text, "    before it: {}\n    after it:  {}\n    {knows}", seen.before, seen.after);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_relay_is_told_with_its_neighbours_and_nothing_else() {
        let seen = |relay: &str, before: &str, after: &str| Seen {
            relay: relay.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let path = [
            seen("relay2", "you, at 127.0.0.1:4000", "relay1"),
            seen("relay1", "relay2", "relay6"),
            seen("relay6", "relay1", "the page, at 127.0.0.1:80"),
        ];
        let text = tell("127.0.0.1:80".parse().unwrap(), &path);
        let expect = "  relay2 (guard)
    before it: you, at 127.0.0.1:4000
    after it:  relay1
    It knows that you use Tunic. It does not know for what.
  relay1 (middle)
    before it: relay2
    after it:  relay6
    It knows neither you nor the page.
  relay6 (exit)
    before it: relay1
    after it:  the page, at 127.0.0.1:80
    It knows which page is visited. It does not know by whom.
";
        assert!(text.contains(expect), "{text}");
        assert!(text.contains("you - relay2 - relay1 - relay6 - the page at 127.0.0.1:80"), "{text}");
        assert!(text.lines().all(|line| line.len() <= crate::screen::WIDTH), "{text}");
    }
}
