//! A report as one HTML file that needs nothing else: tables, and plots as SVG.

use super::{
    report::Report,
    show::{self, Section},
};
use crate::text::bytes;
use std::fmt::Write;

const STYLE: &str = "\
:root{--ink:#1c2430;--faint:#667085;--line:#d9dee7;--fill:#f6f8fb;--a:#2f6fde;--b:#c2571a}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);margin:2rem auto;max-width:70rem;padding:0 1rem}\
h1{font-size:1.3rem;overflow-wrap:anywhere}h2{font-size:1.05rem;margin-top:2rem}\
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid var(--line);padding:.25rem .7rem;text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}div.wide{overflow-x:auto}\
svg{max-width:100%;height:auto;background:var(--fill);border-radius:6px}svg text{font:11px system-ui,sans-serif;fill:var(--faint)}";

/// Text that stands for itself in HTML.
fn plain(s: &str) -> String {
    let mut out = String::new();
    for c in s.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

pub fn page(r: &Report) -> String {
    let mut out = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    out += "<meta name=\"viewport\" content=\"width=device-width\">";
    let _ = write!(out, "<title>{}</title><style>{STYLE}</style></head><body>", plain(&r.model));
    let to = r.out.as_ref().map_or_else(String::new, |o| format!(" &rarr; {}", plain(o)));
    let _ = write!(out, "<h1>{}{to}</h1>", plain(&r.model));
    if !r.settings.is_empty() {
        let all: Vec<String> = r.settings.iter().map(|(k, v)| format!("{} {}", plain(k), plain(v))).collect();
        let _ = write!(out, "<p>{}</p>", all.join(", "));
    }
    for s in show::sections(r) {
        let _ = write!(out, "<h2>{}</h2>", plain(s.title));
        match s.title {
            "by layer" => out += &by_layer(r),
            "settings" => out += &trade_off(r),
            _ => {}
        }
        out += &table(&s);
    }
    out += "</body></html>\n";
    out
}

fn table(s: &Section) -> String {
    let mut out = String::from("<div class=\"wide\"><table><tr>");
    let class = |i: usize| if s.right.contains(&i) { " class=\"n\"" } else { "" };
    for (i, h) in s.head.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), plain(h));
    }
    out += "</tr>";
    for row in &s.rows {
        out += "<tr>";
        for (i, c) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(i), plain(c));
        }
        out += "</tr>";
    }
    out + "</table></div>"
}

/// Noise of each layer's result as a bar, the model's first layer on the left.
fn by_layer(r: &Report) -> String {
    let noise: Vec<(&str, f64)> = r
        .layers
        .iter()
        .filter_map(|l| Some((l.name.as_str(), l.snr?)))
        .map(|(n, snr)| (n, 10f64.powf(-snr / 20.0)))
        .filter(|(_, v)| v.is_finite())
        .collect();
    if noise.is_empty() {
        return String::new();
    }
    let (w, h, left, bottom) = (960.0, 260.0, 60.0, 20.0);
    let top = noise.iter().map(|n| n.1).fold(0.0, f64::max).max(1e-9);
    let step = (w - left - 10.0) / noise.len() as f64;
    let mut out = format!(
        "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"relative error of each layer's result\">\
         <text x=\"{left}\" y=\"14\">relative error of each layer's result</text>"
    );
    for part in [0.0, 0.5, 1.0] {
        let y = h - bottom - part * (h - bottom - 30.0);
        let _ = write!(
            out,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d9dee7\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.1e}</text>",
            w - 10.0,
            left - 6.0,
            y + 4.0,
            part * top
        );
    }
    for (i, (name, v)) in noise.iter().enumerate() {
        let height = v / top * (h - bottom - 30.0);
        let _ = write!(
            out,
            "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\" fill=\"#2f6fde\"><title>{}: {v:.2e}</title></rect>",
            left + i as f64 * step,
            h - bottom - height,
            (step * 0.8).max(0.5),
            plain(name)
        );
    }
    out + "</svg>"
}

/// Error against size, the area of a dot by its latency.
fn trade_off(r: &Report) -> String {
    let dots: Vec<(&str, f64, f64, Option<f64>)> = r
        .trials
        .iter()
        .filter_map(|t| Some((t.setting.as_str(), t.constant_bytes as f64, t.relative_error?, t.latency_ms)))
        .filter(|d| d.2.is_finite())
        .collect();
    if dots.is_empty() {
        return String::new();
    }
    let (w, h, left, bottom) = (960.0, 380.0, 70.0, 34.0);
    let most = |f: fn(&(&str, f64, f64, Option<f64>)) -> f64| dots.iter().map(f).fold(0.0, f64::max);
    let (widest, slowest) = (most(|d| d.1).max(1.0) * 1.15, most(|d| d.3.unwrap_or(0.0)));
    // Errors lie orders of magnitude apart.
    let floor = dots.iter().map(|d| d.2).filter(|e| *e > 0.0).fold(f64::INFINITY, f64::min);
    let low = if floor.is_finite() { floor.log10().floor() } else { -6.0 };
    let high = (most(|d| d.2).max(1e-12).log10().ceil()).max(low + 1.0);
    let x = |v: f64| left + v / widest * (w - left - 20.0);
    let y = |e: f64| {
        let part = ((e.max(1e-300).log10() - low) / (high - low)).clamp(0.0, 1.0);
        h - bottom - part * (h - bottom - 30.0)
    };
    let mut out = format!(
        "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"error against size\"><text x=\"{left}\" y=\"14\">\
         relative error of the outputs against bytes of weights; larger dots are slower</text>"
    );
    let mut e = low;
    while e <= high {
        let at = y(10f64.powf(e));
        let _ = write!(
            out,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#d9dee7\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">1e{e}</text>",
            w - 20.0,
            left - 6.0,
            at + 4.0
        );
        e += 1.0;
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let v = part * widest;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(v),
            h - 12.0,
            bytes(v as u64)
        );
    }
    for (name, size, error, latency) in dots {
        let radius = latency.filter(|_| slowest > 0.0).map_or(5.0, |l| 3.0 + 9.0 * (l / slowest).sqrt());
        let told = latency.map_or_else(String::new, |l| format!(", {l:.3} ms"));
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" fill=\"#2f6fde\" fill-opacity=\".6\"><title>{}: {}, {error:.2e}{told}</title></circle>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(size),
            y(error),
            plain(name),
            bytes(size as u64),
            x(size) + radius + 3.0,
            y(error) + 4.0,
            plain(name)
        );
    }
    out + "</svg>"
}
