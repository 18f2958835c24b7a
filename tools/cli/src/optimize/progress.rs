//! A line on the error stream that says how far things are, on terminals only.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// One line, drawn over until it is done.
pub struct Progress {
    what: String,
    total: Option<usize>,
    done: usize,
    drawn: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub fn new(what: impl Into<String>, total: Option<usize>) -> Progress {
        let mut p =
            Progress { what: what.into(), total, done: 0, drawn: None, shown: io::stderr().is_terminal() };
        p.draw();
        p
    }

    pub fn step(&mut self) {
        self.done += 1;
        if self.drawn.is_none_or(|t| t.elapsed() > Duration::from_millis(100)) {
            self.draw();
        }
    }

    fn draw(&mut self) {
        if !self.shown {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(&self.what, self.done, self.total);
        let mut out = io::stderr().lock();
        // Without a terminal to write to there is nobody to tell.
        let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let mut out = io::stderr().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

fn line(what: &str, done: usize, total: Option<usize>) -> String {
    const WIDTH: usize = 24;
    match total {
        Some(n) if n > 0 => {
            let filled = (done.min(n) * WIDTH) / n;
            format!("{what} [{}{}] {done}/{n}", "#".repeat(filled), "-".repeat(WIDTH - filled))
        }
        _ if done > 0 => format!("{what} {done}"),
        _ => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_from_left_to_right() {
        assert_eq!(line("a", 1, Some(2)), format!("a [{}{}] 1/2", "#".repeat(12), "-".repeat(12)));
        assert_eq!(line("a", 3, None), "a 3");
        assert_eq!(line("a", 0, None), "a");
    }
}
