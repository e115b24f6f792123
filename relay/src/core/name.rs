//! Host names that an exit looks up.

/// The longest host name (RFC 1035 §2.3.4, as text without the last dot).
const MAX_NAME_LEN: usize = 253;

/// Names that mean something only near the one who asks, and whatever ends in them: RFC 6761 §6.3, RFC 6762 §3,
/// ICANN's private-use name, RFC 8375, RFC 7686 and RFC 9476.
const LOCAL_NAMES: &[&str] = &["localhost", "local", "internal", "home.arpa", "onion", "alt"];

/// What to ask the resolver for; `None` if the name cannot be a public host's.
///
/// On a public exit the name is made absolute, so that no search domain of the operator's network is tried, and names
/// that only mean something in that network are refused. With `allow_private` the resolver gets the name as it is.
pub fn query(name: &str, allow_private: bool) -> Option<String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let labels_are_sound = bare.split('.').all(is_label);
    if bare.len() > MAX_NAME_LEN || !labels_are_sound {
        return None;
    }
    if allow_private {
        return Some(bare.to_owned());
    }
    let lower = bare.to_ascii_lowercase();
    let is_local = !lower.contains('.') || LOCAL_NAMES.iter().any(|suffix| is_within(&lower, suffix));
    (!is_local).then(|| format!("{lower}."))
}

/// 1–63 letters, digits, hyphens and underscores (RFC 1035 §2.3.1; underscores occur in practice).
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expect: Option<&str>) {
        assert_eq!(query(name, false).as_deref(), expect, "{name}");
    }

    #[test]
    fn a_public_name_is_made_absolute() {
        check("example.com", Some("example.com."));
        check("Example.COM.", Some("example.com."));
        check("a_b.xn--bcher-kva.example", Some("a_b.xn--bcher-kva.example."));
        check("notlocal.example", Some("notlocal.example."));
        check("mylocal.notonion", Some("mylocal.notonion."));
    }

    #[test]
    fn names_of_the_operators_network_are_not_asked_for() {
        for name in
            ["localhost", "printer", "a.localhost", "nas.local", "db.INTERNAL", "x.home.arpa", "a.onion"]
        {
            check(name, None);
        }
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        for name in ["", ".", "..", "a..b", ".a.b", "a b.com", "a/b.com", "a.com\0", "ä.com", "[::1]"] {
            check(name, None);
            assert_eq!(query(name, true), None, "{name:?}");
        }
        check(&format!("{}.com", "a".repeat(64)), None);
        check(&format!("{}com", "abcdefg.".repeat(32)), None);
    }

    #[test]
    fn a_private_network_may_use_its_own_names() {
        assert_eq!(query("localhost", true).as_deref(), Some("localhost"));
        assert_eq!(query("db.internal.", true).as_deref(), Some("db.internal"));
    }
}
