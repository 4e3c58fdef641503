//! The `hardy` command line.
fn main() {}
