//! A report for people: as tables on a terminal, and in Markdown.

use super::report::{Figures, Report};
use crate::text::{bytes, safe, table};

/// A heading, the names of columns, and rows.
pub struct Section {
    pub title: &'static str,
    pub head: Vec<&'static str>,
    /// Columns of numbers.
    pub right: Vec<usize>,
    pub rows: Vec<Vec<String>>,
}

/// Layers shown on a terminal; files have all.
const SHOWN: usize = 20;

pub fn sections(r: &Report) -> Vec<Section> {
    let all =
        [totals(r), notes(r), outputs(r), pruned(r), layers(r), kept(r), fused(r), declined(r), trials(r)];
    all.into_iter().filter(|s| !s.rows.is_empty()).collect()
}

pub fn ratio(before: f64, after: f64) -> String {
    if before > 0.0 && after.is_finite() { format!("{:.2}x", after / before) } else { "-".into() }
}

fn ms(v: Option<f64>) -> String {
    v.map_or_else(|| "-".into(), |v| format!("{v:.3} ms"))
}

fn error(v: f64) -> String {
    if v == 0.0 { "0".into() } else { format!("{v:.2e}") }
}

fn totals(r: &Report) -> Section {
    let (a, b) = (&r.before, &r.after);
    let mut rows = vec![];
    let size = |get: fn(&Figures) -> Option<u64>| get(a).zip(get(b));
    let mut push =
        |what: &str, x: String, y: String, ratio: String| rows.push(vec![what.into(), x, y, ratio]);
    if r.trials.is_empty() {
        if let Some((x, y)) = size(|f| f.file_bytes) {
            push("file", bytes(x), bytes(y), ratio(x as f64, y as f64));
        }
        let (x, y) = (a.constant_bytes, b.constant_bytes);
        push("weights", bytes(x), bytes(y), ratio(x as f64, y as f64));
        push("nodes", a.nodes.to_string(), b.nodes.to_string(), String::new());
        if let Some((x, y)) = a.latency_ms.zip(b.latency_ms) {
            push("latency", ms(Some(x)), ms(Some(y)), ratio(x, y));
        }
        if let Some((x, y)) = size(|f| f.peak_bytes) {
            push("peak memory", bytes(x), bytes(y), ratio(x as f64, y as f64));
        }
        if let Some((metric, (x, y))) = r.metric.zip(a.score.zip(b.score)) {
            push(
                metric,
                format!("{:.2}%", 100.0 * x),
                format!("{:.2}%", 100.0 * y),
                format!("{:+.2}", 100.0 * (y - x)),
            );
        }
        if let Some((x, y)) = a.mse.zip(b.mse) {
            push("mean squared error", error(x), error(y), ratio(x, y));
        }
    }
    Section { title: "in total", head: vec!["", "before", "after", "change"], right: vec![1, 2, 3], rows }
}

fn outputs(r: &Report) -> Section {
    let row = |o: &super::report::OutputError| vec![safe(&o.name), error(o.relative), error(o.largest)];
    Section {
        title: "error by output",
        head: vec!["output", "relative", "largest"],
        right: vec![1, 2],
        rows: r.outputs.iter().map(row).collect(),
    }
}

fn pruned(r: &Report) -> Section {
    let row = |p: &super::report::PrunedLayer| {
        vec![
            some(&p.nodes),
            p.what.into(),
            p.before.to_string(),
            p.after.to_string(),
            ratio(p.before as f64, p.after as f64),
        ]
    };
    Section {
        title: "pruned",
        head: vec!["layers", "of", "before", "after", "left"],
        right: vec![2, 3, 4],
        rows: r.pruned.iter().filter(|p| p.kept.is_none()).map(row).collect(),
    }
}

fn notes(r: &Report) -> Section {
    let rows = r.notes.iter().map(|n| vec![n.clone()]).collect();
    Section { title: "zeros", head: vec!["what they are worth"], right: vec![], rows }
}

/// The first few names.
fn some<S: AsRef<str>>(names: &[S]) -> String {
    let first: Vec<String> = names.iter().take(4).map(|n| safe(n.as_ref())).collect();
    let more = if names.len() > first.len() { ", .." } else { "" };
    format!("{}{more}", first.join(", "))
}

fn layers(r: &Report) -> Section {
    let rows = r
        .layers
        .iter()
        .map(|l| {
            vec![
                safe(&l.name),
                l.op.clone(),
                if l.kept.is_some() { "float".into() } else { l.form.clone() },
                bytes(l.bytes.0),
                bytes(l.bytes.1),
                ms(l.ms.0),
                ms(l.ms.1),
                l.snr.map_or_else(
                    || "-".into(),
                    |s| if s.is_finite() { format!("{s:.1}") } else { "exact".into() },
                ),
            ]
        })
        .collect();
    Section {
        title: "by layer",
        head: vec!["layer", "op", "is", "weights", "after", "time", "after", "SNR dB"],
        right: vec![3, 4, 5, 6, 7],
        rows,
    }
}

fn kept(r: &Report) -> Section {
    let rows =
        r.kept().into_iter().map(|(why, names)| vec![safe(why), names.len().to_string(), some(&names)]);
    Section {
        title: "left in float",
        head: vec!["why", "layers", "which"],
        right: vec![1],
        rows: rows.collect(),
    }
}

fn fused(r: &Report) -> Section {
    let rows = r.fused.iter().map(|f| vec![f.rule.clone(), f.count.to_string()]).collect();
    Section { title: "fused and simplified", head: vec!["rule", "times"], right: vec![1], rows }
}

fn declined(r: &Report) -> Section {
    let row = |d: &super::report::Declined| {
        let names: Vec<String> = d.nodes.iter().map(|n| safe(n)).collect();
        vec![d.rule.clone(), d.count.to_string(), d.reason.clone(), names.join(", ")]
    };
    Section {
        title: "left as it was",
        head: vec!["rule", "nodes", "why", "which"],
        right: vec![1],
        rows: r.declined.iter().map(row).chain(unpruned(r)).collect(),
    }
}

/// What pruning left alone, by reason.
fn unpruned(r: &Report) -> impl Iterator<Item = Vec<String>> {
    let mut all: Vec<(&str, &str, Vec<&String>)> = vec![];
    for p in &r.pruned {
        let Some(why) = &p.kept else { continue };
        match all.iter_mut().find(|(what, w, _)| *what == p.what && w == why) {
            Some((.., names)) => names.extend(&p.nodes),
            None => all.push((p.what, why, p.nodes.iter().collect())),
        }
    }
    all.into_iter().map(|(what, why, names)| {
        vec![format!("pruning of {what}"), names.len().to_string(), safe(why), some(&names)]
    })
}

fn trials(r: &Report) -> Section {
    let scored = r.trials.iter().any(|t| t.score.is_some());
    let mut head = vec!["setting", "weights", "latency", "error"];
    if scored {
        head.push(r.metric.unwrap_or("score"));
    }
    head.push("");
    let rows = r.trials.iter().map(|t| {
        let ok = t.failed.is_none();
        let mut row = vec![
            t.setting.clone(),
            if ok { bytes(t.constant_bytes) } else { "-".into() },
            ms(t.latency_ms),
            t.relative_error.map_or_else(|| "-".into(), error),
        ];
        if scored {
            row.push(t.score.map_or_else(|| "-".into(), |s| format!("{:.2}%", 100.0 * s)));
        }
        row.push(t.failed.as_deref().map_or_else(String::new, safe));
        row
    });
    Section { title: "settings", head, right: vec![1, 2, 3, 4], rows: rows.collect() }
}

fn title(r: &Report) -> String {
    let settings: Vec<String> = r.settings.iter().map(|(k, v)| format!("{k} {}", safe(v))).collect();
    let to = r.out.as_ref().map_or_else(String::new, |o| format!(" -> {}", safe(o)));
    format!("{}{to}{}{}", safe(&r.model), if settings.is_empty() { "" } else { ": " }, settings.join(", "))
}

/// For a terminal.
pub fn terminal(r: &Report) -> String {
    let mut out = format!("{}\n", title(r));
    for mut s in sections(r) {
        let hidden = if s.title == "by layer" { s.rows.len().saturating_sub(SHOWN) } else { 0 };
        s.rows.truncate(s.rows.len() - hidden);
        out += &format!("\n{}\n", s.title);
        out += &table(&s.head, &s.right, &s.rows);
        if hidden > 0 {
            out += &format!("and {hidden} more (--report FILE has all)\n");
        }
    }
    out
}

/// As Markdown.
pub fn markdown(r: &Report) -> String {
    let cell = |s: &str| s.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
    let mut out = format!("# {}\n", cell(&title(r)));
    for s in sections(r) {
        out += &format!("\n## {}\n\n| {} |\n", s.title, s.head.join(" | "));
        let rule: Vec<&str> =
            (0..s.head.len()).map(|i| if s.right.contains(&i) { "---:" } else { "---" }).collect();
        out += &format!("| {} |\n", rule.join(" | "));
        for row in &s.rows {
            let cells: Vec<String> = row.iter().map(|c| cell(c)).collect();
            out += &format!("| {} |\n", cells.join(" | "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{
        html,
        report::{Fused, Layer, OutputError, Trial},
    };
    use super::*;

    fn report() -> Report {
        let figures = |file, latency| Figures {
            nodes: 3,
            file_bytes: Some(file),
            constant_bytes: file,
            latency_ms: Some(latency),
            score: Some(0.5),
            ..Figures::default()
        };
        Report {
            model: "m<1>.onnx".into(),
            out: Some("o.onnx".into()),
            settings: vec![("quantize".into(), "int8".into())],
            before: figures(4096, 2.0),
            after: figures(1024, 1.0),
            metric: Some("accuracy"),
            outputs: vec![OutputError { name: "y".into(), relative: 0.0125, largest: 0.5 }],
            layers: vec![
                Layer {
                    name: "a|b".into(),
                    op: "conv".into(),
                    form: "i8".into(),
                    snr: Some(30.0),
                    ..Layer::default()
                },
                Layer {
                    name: "c\u{7}".into(),
                    op: "matmul".into(),
                    kept: Some("excluded".into()),
                    ..Layer::default()
                },
            ],
            fused: vec![Fused { rule: "gelu".into(), count: 2 }],
            ..Report::default()
        }
    }

    #[test]
    fn a_terminal_gets_tables() {
        let expected = "\
m<1>.onnx -> o.onnx: quantize int8

in total
            before     after  change
file       4.0 KiB   1.0 KiB   0.25x
weights    4.0 KiB   1.0 KiB   0.25x
nodes            3         3
latency   2.000 ms  1.000 ms   0.50x
accuracy    50.00%    50.00%   +0.00

error by output
output  relative  largest
y        1.25e-2  5.00e-1

by layer
layer   op      is     weights  after  time  after  SNR dB
a|b     conv    i8         0 B    0 B     -      -    30.0
c\\u{7}  matmul  float      0 B    0 B     -      -       -

left in float
why       layers  which
excluded       1  c\\u{7}

fused and simplified
rule  times
gelu      2
";
        assert_eq!(terminal(&report()), expected);
    }

    #[test]
    fn names_stand_for_themselves_in_every_form() {
        let md = markdown(&report());
        assert!(md.starts_with("# m&lt;1>.onnx"), "{md}");
        assert!(md.contains("| a\\|b | conv | i8 |"), "{md}");
        let page = html::page(&report());
        assert!(page.contains("<h1>m&lt;1&gt;.onnx &rarr; o.onnx</h1>") && page.contains("<rect"), "{page}");
        for tag in ["table", "tr", "td", "th", "h2", "svg", "text", "rect", "title", "div", "body", "html"] {
            let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
            let opened =
                page.matches(&format!("{open}>")).count() + page.matches(&format!("{open} ")).count();
            assert_eq!(opened, page.matches(&close).count(), "{tag}");
        }
        assert!(report().json()["layers"][1]["kept"] == "excluded");
    }

    #[test]
    fn trials_are_plotted() {
        let trial = |setting: &str, error, failed: Option<&str>| Trial {
            setting: setting.into(),
            constant_bytes: 1000,
            latency_ms: Some(1.0),
            relative_error: error,
            score: None,
            failed: failed.map(str::to_owned),
        };
        let trials =
            vec![trial("a", Some(0.0), None), trial("b", Some(0.1), None), trial("c", None, Some("no"))];
        let page = html::page(&Report { trials, ..Report::default() });
        assert_eq!(page.matches("<circle").count(), 2);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
