//! Checked-in vectors for second implementers: recomputed by the tests and compared.

use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Compares with `tests/vectors/NAME`. `TUNIC_WRITE_VECTORS=1` writes the file anew instead.
pub fn check_vectors<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, computed: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    if std::env::var_os("TUNIC_WRITE_VECTORS").is_some_and(|value| value == "1") {
        let text = serde_json::to_string_pretty(computed).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let stored: T = serde_json::from_str(&text).unwrap();
    assert_eq!(&stored, computed, "{name} differs from what is computed now");
}
