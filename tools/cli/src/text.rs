//! Text for people: tables, times, sizes.

/// Text from a file, fit for a terminal: control characters are escaped, long names cut.
pub fn safe(s: &str) -> String {
    const LONGEST: usize = 120;
    let mut out: String = s.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if s.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// A table with aligned columns; those in `right` are numbers.
pub fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|h| h.to_string()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (i, (cell, w)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(w - cell.chars().count());
            if i > 0 {
                line.push_str("  ");
            }
            let (before, after) = if right.contains(&i) { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A time in the unit that suits it.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.3} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

/// Bytes in the unit that suits them.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut v, mut unit) = (n as f64, 0);
    while v >= 1024.0 && unit + 1 < units.len() {
        v /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{v:.1} {}", units[unit]) }
}

/// A count with thin groups: 25 557 032.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_tables() {
        assert_eq!(count(25557032), "25 557 032");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(time(0.0123), "12.300 ms");
        assert_eq!(safe("a\u{1b}[2J"), "a\\u{1b}[2J");
        let t = table(&["a", "n"], &[1], &[vec!["xyz".into(), "7".into()], vec!["x".into(), "100".into()]]);
        assert_eq!(t, "a      n\nxyz    7\nx    100\n");
    }
}
