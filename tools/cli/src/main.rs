//! The program `tensormill`.
fn main() {}
