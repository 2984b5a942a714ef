//! The terminal of fathom.

fn main() {}
