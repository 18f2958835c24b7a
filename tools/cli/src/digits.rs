//! `tensormill` without a command: the digits that the built-in model reads.

use crate::{failure::Failure, text::time};
use std::{
    fmt::Write,
    time::{Duration, Instant},
};
use tensormill::{Model, Tensor, files};

const MODEL: &[u8] = include_bytes!("../assets/digits.onnx");
const SAMPLES: &[u8] = include_bytes!("../assets/digits.npz");
/// How long throughput is measured.
const MEASURE: Duration = Duration::from_millis(300);
/// Images in one line.
const ACROSS: usize = 4;

pub fn run() -> Result<String, Failure> {
    let start = Instant::now();
    let session = Model::load(MODEL)?.session()?;
    let load = start.elapsed();
    let samples = files::parse_npz("digits.npz", SAMPLES, 1 << 20)?;
    let array = |name: &str| {
        let found = samples.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
        found.ok_or_else(|| Failure::new(format!("the built-in samples have no `{name}`")))
    };
    let (images, labels) = (array("image")?, array("label")?);
    let labels = labels.to_i64_vec()?;
    let pixels = images.to_slice::<f32>()?;
    let size = pixels.len() / labels.len().max(1);
    let side = size.isqrt();
    let mut shown = vec![];
    let mut latencies = vec![];
    for (image, &label) in pixels.chunks_exact(size).zip(&labels) {
        let input = Tensor::from_vec([1, 1, side, side], image.to_vec())?;
        let start = Instant::now();
        let outputs = session.run(input)?;
        latencies.push(start.elapsed());
        let p = outputs.tensor(0)?.to_f32_vec()?;
        shown.push(Shown { image: image.to_vec(), side, label, probabilities: p });
    }
    let mut out = String::from("A small network reads handwritten digits that it was not trained on.\n\n");
    for row in shown.chunks(ACROSS) {
        draw(&mut out, row);
    }
    let right = shown.iter().filter(|s| s.read() as i64 == s.label).count();
    let (runs, elapsed) = measure(&images, &session)?;
    latencies.sort();
    let count = shown.len();
    // A String takes every write.
    let _ = write!(
        out,
        "{right} of {count} read right; loaded in {}, one image in {} (median of {count}),\n\
         {:.0} images a second in batches of {count} on {} threads\n\n\
         What next:\n  \
         tensormill inspect model.onnx                   what is inside a model of yours\n  \
         tensormill run model.onnx --inputs in.npz       what it says\n  \
         tensormill bench model.onnx                     how fast it says it\n",
        time(load.as_secs_f64()),
        time(latencies[count / 2].as_secs_f64()),
        (runs * count) as f64 / elapsed.as_secs_f64(),
        session.threads(),
    );
    if cfg!(debug_assertions) {
        out += "\n(a build with debug assertions: cargo run --release is faster)\n";
    }
    Ok(out)
}

fn measure(images: &Tensor, session: &tensormill::Session) -> Result<(usize, Duration), Failure> {
    session.run(images.clone())?;
    let start = Instant::now();
    let mut runs = 0;
    while runs == 0 || start.elapsed() < MEASURE {
        session.run(images.clone())?;
        runs += 1;
    }
    Ok((runs, start.elapsed()))
}

struct Shown {
    image: Vec<f32>,
    side: usize,
    label: i64,
    probabilities: Vec<f32>,
}

impl Shown {
    /// The digit of the highest probability.
    fn read(&self) -> usize {
        let best = self.probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(i, _)| i)
    }

    /// Two columns of text a pixel, so that pixels are about square.
    fn lines(&self) -> Vec<String> {
        const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
        let shade = |v: f32| SHADES[((v * 4.0).round().clamp(0.0, 4.0)) as usize];
        self.image
            .chunks_exact(self.side)
            .map(|row| row.iter().flat_map(|&v| [shade(v); 2]).collect())
            .collect()
    }

    /// The two likeliest digits, each with a bar.
    fn guesses(&self) -> Vec<String> {
        const BAR: usize = 8;
        let mut order: Vec<usize> = (0..self.probabilities.len()).collect();
        order.sort_by(|&a, &b| self.probabilities[b].total_cmp(&self.probabilities[a]));
        let line = |&i: &usize| {
            let p = self.probabilities[i];
            let full = (p * BAR as f32).round().clamp(0.0, BAR as f32) as usize;
            format!("{i} {}{} {:3.0}%", "█".repeat(full), "·".repeat(BAR - full), p * 100.0)
        };
        order.iter().take(2).map(line).collect()
    }
}

fn draw(out: &mut String, row: &[Shown]) {
    let mut columns: Vec<Vec<String>> = vec![];
    for s in row {
        let mut lines = s.lines();
        let verdict = if s.read() as i64 == s.label { "right" } else { "WRONG" };
        lines.push(format!("reads {}, is {}: {verdict}", s.read(), s.label));
        lines.extend(s.guesses());
        columns.push(lines);
    }
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    for i in 0..height {
        let mut line = String::from("  ");
        for c in &columns {
            let cell = c.get(i).map_or("", String::as_str);
            let _ = write!(line, "{cell}{}", " ".repeat(24usize.saturating_sub(cell.chars().count())));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
}
