//! An authority that is not there, for the files of daemons.

/// Port 9 (discard) of loopback: nobody listens there.
pub const AUTHORITY: &str = r#"
[[authority]]
name = "one"
identity = "0000000000000000000000000000000000000000000000000000000000000002"
onion_key = "0000000000000000000000000000000000000000000000000000000000000003"
addresses = ["127.0.0.1:9"]
"#;
