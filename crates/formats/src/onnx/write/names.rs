use std::collections::{HashMap, HashSet};

/// Names that are given once in a whole model: bodies see the values around them.
#[derive(Default)]
pub(super) struct Names {
    used: HashSet<String>,
    /// The last number that was tried behind a name.
    last: HashMap<String, usize>,
}

impl Names {
    /// Takes a name; whether it was free.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.used.insert(name.to_owned())
    }

    /// This name, or with a number behind it if it is taken.
    pub(super) fn fresh(&mut self, wanted: &str) -> String {
        let wanted = if wanted.is_empty() { "value" } else { wanted };
        if self.take(wanted) {
            return wanted.to_owned();
        }
        let mut n = self.last.get(wanted).copied().unwrap_or(1);
        let name = loop {
            n += 1;
            let name = format!("{wanted}_{n}");
            if self.take(&name) {
                break name;
            }
        };
        self.last.insert(wanted.to_owned(), n);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice() {
        let mut names = Names::default();
        assert!(names.take("a_2"));
        let given: Vec<String> = (0..4).map(|_| names.fresh("a")).collect();
        assert_eq!(given, ["a", "a_3", "a_4", "a_5"]);
        assert_eq!(names.fresh(""), "value");
    }
}
