//! The `frazil` program: everything is in the library.

fn main() {}
