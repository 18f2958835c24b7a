//! The committed list of cases that do not pass: `case  engine  unsupported|failed  reason`.

use super::{Engine, Outcome};
use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

/// The key of a case in the list.
type Key = (String, String);

fn word(o: &Outcome) -> (&'static str, &str) {
    match o {
        Outcome::Passed => ("passed", ""),
        Outcome::Unsupported(r) => ("unsupported", r),
        Outcome::Failed(r) => ("failed", r),
    }
}

fn read(list: &Path) -> Result<BTreeMap<Key, (String, String)>, String> {
    let text = fs::read_to_string(list).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|l| {
            let mut fields = l.splitn(4, '\t').map(str::to_owned);
            let mut next = || fields.next().ok_or_else(|| format!("{}: `{l}` lacks a field", list.display()));
            Ok(((next()?, next()?), (next()?, next()?)))
        })
        .collect()
}

/// What did not end as the list says. With `complete`, listed cases that were not run count too.
pub fn check(
    list: &Path,
    on: Engine,
    ends: &[(&str, &Outcome)],
    complete: bool,
) -> Result<Vec<String>, String> {
    let mut expected = read(list)?;
    let mut surprises = vec![];
    for (name, outcome) in ends {
        let listed = expected.remove(&((*name).to_owned(), on.name()));
        let (end, reason) = word(outcome);
        match listed {
            None if end == "passed" => {}
            None => surprises.push(format!("{name} {end}: {reason}")),
            Some((was, _)) if was == end => {}
            Some((was, _)) => surprises.push(format!("{name} {end}, listed as {was}: {reason}")),
        }
    }
    if complete {
        let gone = expected.keys().filter(|(_, engine)| *engine == on.name());
        surprises.extend(gone.map(|(name, _)| format!("{name} is listed, but there is no such case")));
    }
    Ok(surprises)
}

/// Rewrites the list for one engine; reasons that are there stay, since people improve them.
pub fn bless(list: &Path, on: Engine, ends: &[(&str, &Outcome)]) -> Result<(), String> {
    let mut all = read(list)?;
    for (name, outcome) in ends {
        let key = ((*name).to_owned(), on.name());
        let (end, reason) = word(outcome);
        let old = all.remove(&key);
        if end != "passed" {
            let reason = match old {
                Some((was, why)) if was == end => why,
                _ => reason.chars().take(160).collect(),
            };
            all.insert(key, (end.to_owned(), reason));
        }
    }
    let mut text = String::from(
        "# ONNX cases that do not pass: case, engine, end, reason; tab-separated. `cargo xtask conformance --bless` rewrites it.\n",
    );
    for ((name, engine), (end, reason)) in all {
        let _ = writeln!(text, "{name}\t{engine}\t{end}\t{reason}");
    }
    fs::write(list, text).map_err(|e| format!("{}: {e}", list.display()))
}
