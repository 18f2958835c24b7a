/// A name from a file, fit for one line of an error message: quoted, with control characters
/// escaped (they could drive a terminal) and cut to a length that a reader can take in.
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut out = String::from("`");
    out.extend(name.chars().take(LONGEST).flat_map(char::escape_debug));
    if let Some((cut, _)) = name.char_indices().nth(LONGEST) {
        out.push_str(&format!("…` ({} bytes, {} not shown)", name.len(), name.len() - cut));
    } else {
        out.push('`');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn names_cannot_drive_a_terminal_or_flood_it() {
        assert_eq!(quoted("conv1"), "`conv1`");
        assert_eq!(quoted("a\x1b[2Jb\n"), "`a\\u{1b}[2Jb\\n`");
        assert!(quoted(&"é".repeat(1 << 20)).len() < 300);
    }
}
