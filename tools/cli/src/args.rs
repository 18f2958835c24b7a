use crate::optimize::args::OptimizeArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use tensormill::{Backend, Optimization};

/// Runs trained models, fast, on the machine at hand.
///
/// Without a command it reads handwritten digits with the small model that is built in.
#[derive(Parser)]
#[command(
    name = "tensormill",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  tensormill                                         read a few handwritten digits
  tensormill inspect model.onnx                      what goes in, what comes out, what is inside
  tensormill run model.onnx --inputs in.npz          run it and show the outputs
  tensormill bench model.onnx --threads 2            how fast it is
  tensormill optimize model.onnx -o small.onnx --quantize f16

Exit codes: 0 good, 1 failure, 2 usage, 3 the model is not supported, 4 a comparison failed."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a model and show or save its outputs.
    #[command(after_help = "\
Examples:
  tensormill run model.onnx --inputs in.npz --save out.npz
  tensormill run model.onnx --inputs cat.png           an image feeds the single input
  tensormill run model.onnx --inputs table.csv --json  a table of numbers, outputs as JSON
  tensormill run model.onnx --inputs ids=ids.npy --inputs mask=mask.npy
  tensormill run model.onnx --inputs in.npz --output conv1   an inner value too")]
    Run(RunArgs),
    /// Show inputs, outputs, operators, parameters and metadata.
    #[command(after_help = "\
Examples:
  tensormill inspect model.onnx
  tensormill inspect model.onnx --text --opt default   the graph after optimization
  tensormill inspect model.onnx --dot | dot -Tsvg > model.svg")]
    Inspect(InspectArgs),
    /// Say whether a model will run, and what by.
    #[command(after_help = "\
Examples:
  tensormill check model.onnx        exit code 3 when it will not run
  tensormill check model.onnx --nodes")]
    Check(CheckArgs),
    /// Measure load time, latency, throughput and memory.
    #[command(after_help = "\
Examples:
  tensormill bench model.onnx                              random inputs
  tensormill bench model.onnx --inputs in.npz --threads 2 --duration 5 --json
  tensormill bench model.onnx --batch 8 --dim sequence=128")]
    Bench(BenchArgs),
    /// Measure each node and each kind of operator.
    #[command(after_help = "\
Examples:
  tensormill profile model.onnx
  tensormill profile model.onnx --trace trace.json   open it in chrome://tracing or Perfetto")]
    Profile(ProfileArgs),
    /// Compare the outputs of two models, or of one model run in two ways.
    #[command(after_help = "\
Examples:
  tensormill compare model.onnx                       as it runs, against the plain definition
  tensormill compare model.onnx other.onnx --rtol 1e-3
  tensormill compare model.onnx --opt default --against-opt none --against-backend cpu")]
    Compare(CompareArgs),
    /// Convert a model to a .mill file, which is mapped instead of parsed, or to ONNX.
    #[command(after_help = "\
Examples:
  tensormill convert model.onnx model.mill
  tensormill convert model.onnx model.mill --opt default --dim batch=1
  tensormill convert model.mill model.onnx           for other engines")]
    Convert(ConvertArgs),
    /// Make a model smaller and faster: fuse, quantize, and say what it cost.
    #[command(after_help = "\
Without options it folds constants and fuses operators. With --quantize it stores numbers in fewer bits:
  int8          weights and activations; fastest. Needs --calib: some dozens of samples as the model will see
  int8-dynamic  weights, and activations by their range in each run; no samples. For transformers and RNNs
  int8-weights  weights only, computed with as floats; a quarter of the size
  int4-weights  the same in groups; an eighth of the size. For large language models
  f16           weights in half precision; half of the size, hardly any error
A model written as .onnx runs in other engines too. The report says what it cost: size, latency, memory,
error per output and layer, accuracy where labels are given, and what stays in float, and why.

Examples:
  tensormill optimize model.onnx -o fused.onnx
  tensormill optimize model.onnx -o small.onnx --quantize int8 --calib photos/ --report report.html
  tensormill optimize model.onnx -o small.onnx --quantize int8 --calib train.npz --eval test.npz --max-drop 1
  tensormill optimize gpt2.onnx -o small.mill --quantize int4-weights --group 32
  tensormill optimize model.onnx --sweep --calib train.npz --report trade-offs.html

Exit codes: as for all commands; 4 when --max-drop cannot be kept.")]
    Optimize(Box<OptimizeArgs>),
    /// Show what this machine and this program can do.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell.
    #[command(
        after_help = "Example:\n  tensormill completions bash > ~/.local/share/bash-completion/completions/tensormill"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What computes.
#[derive(Clone, Copy, ValueEnum)]
pub enum BackendArg {
    /// The processor, with the kernels that suit it best.
    Cpu,
    /// Plain scalar code that defines what every operator means: slow.
    Reference,
}

impl From<BackendArg> for Backend {
    fn from(b: BackendArg) -> Backend {
        match b {
            BackendArg::Cpu => Backend::Cpu,
            BackendArg::Reference => Backend::Reference,
        }
    }
}

/// How much the graph is rewritten before it runs.
#[derive(Clone, Copy, ValueEnum)]
pub enum OptArg {
    /// Not at all.
    None,
    /// Constants ahead of time, nothing that does nothing.
    Basic,
    /// Fusions too.
    Default,
}

impl From<OptArg> for Optimization {
    fn from(o: OptArg) -> Optimization {
        match o {
            OptArg::None => Optimization::None,
            OptArg::Basic => Optimization::Basic,
            OptArg::Default => Optimization::Default,
        }
    }
}

#[derive(Args)]
pub struct SessionArgs {
    /// Threads that one run uses [default: all processors]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// What computes
    #[arg(long, value_enum, default_value = "cpu")]
    pub backend: BackendArg,
    /// How much the graph is rewritten before it runs
    #[arg(long, value_enum, default_value = "default")]
    pub opt: OptArg,
    /// Fix a named size of the inputs; may be given several times
    #[arg(long = "dim", value_name = "NAME=VALUE", value_parser = dim)]
    pub dims: Vec<(String, usize)>,
    /// Bytes of memory that one run may use: 500M, 16G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_memory: Option<usize>,
    /// Keep prepared weights in this folder, for faster starts [default: $TENSORMILL_CACHE]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Measure which kernel is the fastest for each layer, for at most this long; --cache keeps the choices
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub autotune: Option<f64>,
    /// Refuse kernels that take fewer multiplications and round a little more (Winograd, Strassen)
    #[arg(long)]
    pub all_multiplications: bool,
}

#[derive(Args)]
pub struct InputArgs {
    /// A file of inputs: .npz, .npy, PNG, JPEG or CSV; NAME=FILE feeds the input NAME; may be given
    /// several times
    #[arg(long, value_name = "FILE")]
    pub inputs: Vec<String>,
    /// Convert inputs to the element type that the model takes
    #[arg(long)]
    pub cast: bool,
}

#[derive(Args)]
pub struct RunArgs {
    /// The model: .onnx, .tflite or .mill
    pub model: PathBuf,
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Return an inner value too; may be given several times
    #[arg(long = "output", value_name = "NAME")]
    pub outputs: Vec<String>,
    /// Write the outputs, in the order of the graph, to a .npz file (or .npy for a single one)
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Print the outputs as JSON
    #[arg(long)]
    pub json: bool,
    /// Stop after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
}

#[derive(Args)]
pub struct InspectArgs {
    /// The model: .onnx, .tflite or .mill
    pub model: PathBuf,
    /// Print the whole graph as text
    #[arg(long, group = "form")]
    pub text: bool,
    /// Print the graph for Graphviz
    #[arg(long, group = "form")]
    pub dot: bool,
    /// Print JSON
    #[arg(long, group = "form")]
    pub json: bool,
    /// Show the graph after rewriting
    #[arg(long, value_enum, default_value = "none")]
    pub opt: OptArg,
    /// Fix a named size of the inputs; may be given several times
    #[arg(long = "dim", value_name = "NAME=VALUE", value_parser = dim)]
    pub dims: Vec<(String, usize)>,
}

#[derive(Args)]
pub struct CheckArgs {
    /// The model: .onnx, .tflite or .mill
    pub model: PathBuf,
    #[command(flatten)]
    pub session: SessionArgs,
    /// List every node with its kernel
    #[arg(long)]
    pub nodes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct BenchArgs {
    /// The model: .onnx, .tflite or .mill
    pub model: PathBuf,
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Measure for this long, after the warm-up
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub duration: f64,
    /// Measure this many runs instead
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub iterations: Option<usize>,
    /// Size of the first axis of random inputs, where the model leaves it open
    #[arg(long, value_name = "N", conflicts_with = "inputs")]
    pub batch: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ProfileArgs {
    /// The model: .onnx, .tflite or .mill
    pub model: PathBuf,
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Runs to average over
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,
    /// Nodes to list; 0 lists all
    #[arg(long, value_name = "N", default_value = "20")]
    pub top: usize,
    /// Write a trace that Chrome and Perfetto open
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct CompareArgs {
    /// The model: .onnx, .tflite or .mill
    pub model: PathBuf,
    /// The model to compare with [default: the same]
    pub other: Option<PathBuf>,
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    /// Backend of the other side
    #[arg(long, value_enum, default_value = "reference")]
    pub against_backend: BackendArg,
    /// Optimization of the other side
    #[arg(long, value_enum, default_value = "none")]
    pub against_opt: OptArg,
    /// Relative error allowed
    #[arg(long, default_value = "1e-3")]
    pub rtol: f64,
    /// Absolute error allowed
    #[arg(long, default_value = "1e-5")]
    pub atol: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ConvertArgs {
    /// The model to read
    pub model: PathBuf,
    /// The file to write: .mill or .onnx
    pub out: PathBuf,
    /// How much the graph is rewritten first
    #[arg(long, value_enum, default_value = "none")]
    pub opt: OptArg,
    /// Fix a named size of the inputs; may be given several times
    #[arg(long = "dim", value_name = "NAME=VALUE", value_parser = dim)]
    pub dims: Vec<(String, usize)>,
}

pub fn dim(text: &str) -> Result<(String, usize), String> {
    let (name, value) = text.rsplit_once('=').ok_or("write NAME=VALUE, as in batch=8")?;
    let value = value.parse().map_err(|_| format!("`{value}` is no size"))?;
    Ok((name.to_string(), value))
}

pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=1e7).contains(&s) => Ok(s),
        _ => Err("write seconds, as in 2.5".into()),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let upper = text.trim().to_ascii_uppercase();
    let upper = upper.strip_suffix('B').unwrap_or(&upper);
    let (digits, shift) = match units.iter().find(|(u, _)| upper.ends_with(*u)) {
        Some((_, shift)) => (&upper[..upper.len() - 1], *shift),
        None => (upper, 0),
    };
    let n: usize = digits.parse().map_err(|_| "write a size, as in 500M or 16G".to_string())?;
    n.checked_mul(1 << shift).ok_or_else(|| "the size is too large".into())
}
