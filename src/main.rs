//! The `rdvm` command.

fn main() {}
