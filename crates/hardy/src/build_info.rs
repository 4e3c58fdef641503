//! What this binary was built from.

use toml::{Table, Value};

/// The version of Hardy.
pub const HARDY: &str = env!("CARGO_PKG_VERSION");
/// The version of burn, the tensor engine; the workspace pins it.
pub const BURN: &str = "0.21.0";
/// The compiler.
pub const RUSTC: &str = env!("HARDY_RUSTC");
/// The target it compiled for.
pub const TARGET: &str = env!("HARDY_TARGET");
/// The git revision, or `unknown`.
pub const REVISION: &str = env!("HARDY_REVISION");

/// What `--version` prints after the name.
pub fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("HARDY_REVISION"), ")")
}

/// The `[build]` table of a resolved configuration.
pub fn table() -> Table {
    let entries =
        [("hardy", HARDY), ("burn", BURN), ("rustc", RUSTC), ("target", TARGET), ("revision", REVISION)];
    entries.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}
