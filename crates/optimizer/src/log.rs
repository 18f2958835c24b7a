use std::{fmt, time::Duration};

/// Why a rule left nodes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    /// The reason.
    pub reason: &'static str,
    /// How many nodes.
    pub count: u64,
    /// The names of the first few.
    pub nodes: Vec<String>,
}

/// What one pass, or one rule of one pass, did.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// The pass.
    pub pass: &'static str,
    /// The rule, for passes that are sets of rules.
    pub rule: Option<&'static str>,
    /// How often it changed the graph.
    pub rewrites: u64,
    /// Where it declined, as of its last run.
    pub declines: Vec<Decline>,
    /// Time spent matching and, for whole passes, changing.
    pub time: Duration,
}

/// What an optimization did. Displays as a table of the entries that did or declined something.
#[derive(Debug, Clone, Default)]
pub struct OptLog {
    entries: Vec<LogEntry>,
    /// Time of the whole run.
    pub time: Duration,
}

impl OptLog {
    /// Every entry, in the order of first appearance.
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// Number of changes.
    pub fn rewrites(&self) -> u64 {
        self.entries.iter().map(|e| e.rewrites).sum()
    }

    /// Number of changes by one pass or rule of this name.
    pub fn rewrites_of(&self, name: &str) -> u64 {
        self.entries.iter().filter(|e| e.pass == name || e.rule == Some(name)).map(|e| e.rewrites).sum()
    }

    /// Every decline with the rule that declined.
    pub fn declines(&self) -> impl Iterator<Item = (&'static str, &Decline)> {
        self.entries.iter().flat_map(|e| e.declines.iter().map(|d| (e.rule.unwrap_or(e.pass), d)))
    }

    /// Adds an entry to what the same pass and rule did before.
    pub fn record(&mut self, entry: LogEntry) {
        match self.entries.iter_mut().find(|e| e.pass == entry.pass && e.rule == entry.rule) {
            Some(e) => {
                e.rewrites += entry.rewrites;
                e.time += entry.time;
                e.declines = entry.declines;
            }
            None => self.entries.push(entry),
        }
    }
}

impl fmt::Display for OptLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<(String, &LogEntry)> = self
            .entries
            .iter()
            .filter(|e| e.rewrites > 0 || !e.declines.is_empty())
            .map(|e| (e.rule.map_or_else(|| e.pass.to_owned(), |r| format!("{}/{r}", e.pass)), e))
            .collect();
        let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0).max("pass/rule".len());
        writeln!(f, "{:width$}  rewrites  time", "pass/rule")?;
        for (name, e) in rows {
            writeln!(f, "{name:width$}  {:>8}  {:.1?}", e.rewrites, e.time)?;
            for d in &e.declines {
                // Names come from files: control characters never reach a terminal as they are.
                let nodes: Vec<String> = d.nodes.iter().map(|n| n.escape_debug().to_string()).collect();
                let more = if d.count as usize > nodes.len() { ", .." } else { "" };
                writeln!(
                    f,
                    "{:width$}  declined {}: {} ({}{more})",
                    "",
                    d.count,
                    d.reason,
                    nodes.join(", ")
                )?;
            }
        }
        write!(f, "{} rewrites in {:.1?}", self.rewrites(), self.time)
    }
}
