use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tensormill::quantize::{Method, Scheme};

/// What becomes of a model's numbers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizeArg {
    /// Weights and activations as 8-bit integers; needs samples (--calib)
    Int8,
    /// Weights as 8-bit integers, activations by the range they have in each run
    Int8Dynamic,
    /// Weights as 8-bit integers, computed with as floats
    Int8Weights,
    /// Weights as 4-bit integers in groups, computed with as floats
    Int4Weights,
    /// Weights in half precision, computed with as floats
    F16,
}

impl QuantizeArg {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            QuantizeArg::Int8 => "int8",
            QuantizeArg::Int8Dynamic => "int8-dynamic",
            QuantizeArg::Int8Weights => "int8-weights",
            QuantizeArg::Int4Weights => "int4-weights",
            QuantizeArg::F16 => "f16",
        }
    }

    /// Weights that share a scale, where they are in groups.
    pub fn group(self, asked: Option<usize>) -> Option<usize> {
        match self {
            QuantizeArg::Int8Weights => Some(asked.unwrap_or(128)),
            QuantizeArg::Int4Weights => Some(asked.unwrap_or(32)),
            _ => None,
        }
    }

    pub fn scheme(self, group: Option<usize>) -> Scheme {
        match self {
            QuantizeArg::Int8 => Scheme::StaticInt8,
            QuantizeArg::Int8Dynamic => Scheme::DynamicInt8,
            QuantizeArg::Int8Weights => Scheme::Int8Weights,
            QuantizeArg::Int4Weights => Scheme::Int4Weights { group: self.group(group).unwrap_or_default() },
            QuantizeArg::F16 => Scheme::F16Weights,
        }
    }
}

/// How ranges of activations are chosen from samples.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// All that was seen
    Minmax,
    /// Where the least information is lost
    Entropy,
    /// All but the outermost (--percentile)
    Percentile,
    /// Where the squared error is least
    Mse,
}

impl MethodArg {
    pub fn word(self) -> &'static str {
        match self {
            MethodArg::Minmax => "minmax",
            MethodArg::Entropy => "entropy",
            MethodArg::Percentile => "percentile",
            MethodArg::Mse => "mse",
        }
    }

    pub fn method(self, percentile: f64) -> Method {
        match self {
            MethodArg::Minmax => Method::MinMax,
            MethodArg::Entropy => Method::Entropy,
            MethodArg::Percentile => Method::Percentile(percentile),
            MethodArg::Mse => Method::Mse,
        }
    }
}

#[derive(Args)]
pub struct OptimizeArgs {
    /// The model to read: .onnx, .tflite or .mill
    pub model: PathBuf,
    /// The model to write: .onnx for every engine, .mill for this one
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["dry_run", "sweep"])]
    pub out: Option<PathBuf>,
    /// Store numbers in fewer bits
    #[arg(long, value_enum, value_name = "SCHEME")]
    pub quantize: Option<QuantizeArg>,
    /// Take out this part of the weights, from 0 to 1, the smallest first: they become zero. Nothing is trained
    #[arg(long, value_name = "RATIO")]
    pub prune: Option<f64>,
    /// Take out whole channels and heads of attention, so that shapes shrink
    #[arg(long, requires = "prune", conflicts_with = "two_of_four")]
    pub structured: bool,
    /// Take out two of every four weights; needs --prune 0.5
    #[arg(long = "2of4", requires = "prune")]
    pub two_of_four: bool,
    /// Samples to find ranges on: an .npz whose arrays have a leading axis of samples, a CSV table of one
    /// sample a row, an image, or a folder of images or of .npz files of one sample each
    #[arg(long, value_name = "PATH")]
    pub calib: Option<PathBuf>,
    /// Use at most this many samples, picked by --seed where there are more
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// How ranges of activations are chosen
    #[arg(long, value_enum, default_value = "mse")]
    pub method: MethodArg,
    /// Percent of the elements that a range holds, for --method percentile
    #[arg(long, value_name = "PERCENT", default_value = "99.99")]
    pub percentile: f64,
    /// Weights that share a scale, a power of two from 16 on [default: 32 for int4-weights, 128 for int8-weights]
    #[arg(long, value_name = "N")]
    pub group: Option<usize>,
    /// Give 4-bit weights no zero points: four bits less a group, and a larger error
    #[arg(long)]
    pub no_zero_points: bool,
    /// One scale for a whole weight, not one for each of its output channels
    #[arg(long)]
    pub per_tensor: bool,
    /// Store activations as i8 around zero, which some engines need, not as u8
    #[arg(long)]
    pub signed_activations: bool,
    /// The processors that the model is for, by which numbers they multiply fast and right
    #[arg(
        long,
        value_enum,
        value_name = "PROCESSOR",
        default_value = "x86-vnni",
        conflicts_with = "signed_activations"
    )]
    pub target: TargetArg,
    /// Leave this node as it is, by its name or that of its result; may be given several times
    #[arg(long, value_name = "NODE")]
    pub exclude: Vec<String>,
    /// Lose at most this many points of accuracy (or R2) on --eval: the nodes that cost the most stay in float
    #[arg(long, value_name = "PERCENT", requires = "eval", requires = "quantize")]
    pub max_drop: Option<f64>,
    /// Samples with labels: an .npz of the inputs and an array `labels`, or a CSV whose last column (or the one
    /// named `label`, `labels`, `target` or `y`) has them. Whole numbers are classes, others are values to predict
    #[arg(long, value_name = "FILE")]
    pub eval: Option<PathBuf>,
    /// Try every scheme and method, or with --quantize every method of that scheme, and write only a report
    #[arg(long, conflicts_with_all = ["out", "max_drop", "prune"])]
    pub sweep: bool,
    /// Do everything but write the model
    #[arg(long)]
    pub dry_run: bool,
    /// Write the report, too: .json, .html or .md; may be given several times
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Measure latency for about this long, both models in turns; 0 measures none
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = crate::args::seconds)]
    pub measure: f64,
    /// Which samples are picked follows from this number; equal seeds give equal files
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// Threads that runs use [default: all processors]; they change no result
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Fix a named size of the inputs in the model that is written; may be given several times
    #[arg(long = "dim", value_name = "NAME=VALUE", value_parser = crate::args::dim)]
    pub dims: Vec<(String, usize)>,
}

/// Processors, by which integers they multiply fast and right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TargetArg {
    /// u8 activations by i8 weights, which VNNI multiplies at once; right on every processor in this engine
    X86Vnni,
    /// u8 activations by weights of 7 bits, so that other engines' sums do not saturate without VNNI
    X86Avx2,
    /// i8 activations by i8 weights, which Arm's dot products take
    Arm64,
    /// As x86-avx2: right in every engine on every processor
    Portable,
}
