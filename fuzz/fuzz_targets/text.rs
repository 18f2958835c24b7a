//! Any text as a graph: an error, or a graph that verifies and whose text parses back to the same text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tensormill_ir::text;

fuzz_target!(|data: &str| {
    let Ok(g) = text::parse(data) else { return };
    g.verify().expect("what the parser makes is a valid graph");
    let printed = text::print(&g);
    let find = |name: &str| printed.tensors.iter().find(|t| t.0 == name).map(|t| t.1.clone());
    let again = text::parse_with(&printed.text, &|name, _, _| find(name).ok_or_else(|| "no such tensor".into()))
        .unwrap_or_else(|e| panic!("{e} in\n{}", printed.text));
    assert_eq!(printed.text, text::print(&again).text);
});
