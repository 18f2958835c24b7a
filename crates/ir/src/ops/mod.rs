//! The op table: every op's attributes, name and inference.
//!
//! Operands live in [`Node`](crate::Node), attributes here. Families share a variant whose `kind`
//! is the op's name in the text form: [`Unary`], [`Binary`], [`Reduce`].

use crate::{
    attr::{Attr, AttrMap, Attributes},
    error::InferError,
    infer::InferCx,
};

mod constant;
mod elementwise;
mod epilogue;
mod matmul;
mod reduce;
mod shape;
mod slice;

// nn
mod conv;
mod grid;
mod integer;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod resize;
mod softmax;
mod window;

// data
mod control;
mod gather;
mod pad;
mod random;
mod scatter;
mod sequence;
mod sort;

// more
mod attention;
mod detection;
mod einsum;
mod linear_attention;
mod loss;
mod signal;
mod text;
mod trees;

pub use constant::Const;
pub use elementwise::{Binary, BinaryKind, BitCast, Cast, Clip, RoundMode, Unary, UnaryKind, Where};
pub use epilogue::{PostOp, PostOps};
pub use matmul::MatMul;
pub use reduce::{ArgReduce, Reduce, ReduceKind};
pub use shape::{Expand, Flatten, Range, Reshape, ShapeOf, SizeOf, Squeeze, Tile, Transpose, Unsqueeze};
pub use slice::{Concat, Slice, Split};

// nn
pub use conv::{Conv, ConvTranspose, DeformConv};
pub use grid::{AffineGrid, Col2Im, GridPadding, GridSample};
pub use integer::{ByteTable, ConvInteger, MatMulInteger, QuantizedBinary, QuantizedConv, QuantizedMatMul};
pub use norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, Lrn, RmsNorm};
pub use pool::{AveragePool, LpPool, MaxPool, MaxRoiPool, MaxUnpool, RoiAlign, RoiMode};
pub use quantize::{DequantizeLinear, DynamicQuantize, QuantizeLinear};
pub use recurrent::{Activation, ActivationKind, Direction, Gru, Lstm, Rnn};
pub use resize::{AspectPolicy, CoordinateMode, NearestMode, Resize, ResizeAxis, ResizeMode};
pub use softmax::{Hardmax, LogSoftmax, Softmax};
pub use window::{AutoPad, Window, WindowAxis};

// data
pub use control::{If, Loop, Scan, carried_type, fixed_point};
pub use gather::{Gather, GatherElements, GatherND};
pub use pad::{EyeLike, Pad, PadMode, Trilu};
pub use random::{Bernoulli, Multinomial, RandomNormal, RandomUniform};
pub use scatter::{ScatterElements, ScatterND, ScatterReduction, TensorScatter};
pub use sequence::{
    ConcatFromSequence, OptionalGetElement, OptionalHasElement, OptionalOf, SequenceAt, SequenceConstruct,
    SequenceEmpty, SequenceErase, SequenceInsert, SequenceLength, SplitToSequence,
};
pub use sort::{Compress, CumProd, CumSum, NonZero, OneHot, ReverseSequence, TopK, Unique};

// more
pub use attention::{Attention, AttentionScores, RotaryEmbedding};
pub use detection::NonMaxSuppression;
pub use einsum::{Det, Einsum, EinsumAxes, EinsumTerms};
pub use linear_attention::{CausalConv, LinearAttention};
pub use loss::{LossReduction, NllLoss, SoftmaxCrossEntropy};
pub use signal::{Dft, MelWeights, Stft, WindowFunction, WindowKind};
pub use text::{CaseChange, NgramMode, Ngrams, RegexFullMatch, StringConcat, StringNormalize, StringSplit};
pub use trees::{Lookup, TreeAggregate, TreeEnsemble};

/// What every op's attribute struct does.
pub trait OpDef: Attributes {
    /// Declares the results for the operands, or refuses them.
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError>;
}

macro_rules! op_table {
    ($($variant:ident $name:literal,)*) => {
        /// An operation with its attributes.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Op { $($variant($variant),)* }

        /// An operation without its attributes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum OpKind { $($variant,)* }

        impl OpKind {
            /// Every kind.
            pub const ALL: &[OpKind] = &[$(OpKind::$variant,)*];
        }

        impl Op {
            /// Which operation it is.
            pub fn kind(&self) -> OpKind {
                match self { $(Op::$variant(_) => OpKind::$variant,)* }
            }

            /// The name in the text form; families are named by their kind.
            #[allow(unreachable_patterns, reason = "families come before the table's own names")]
            pub fn name(&self) -> &'static str {
                match self {
                    Op::Unary(u) => u.kind.name(),
                    Op::Binary(b) => b.kind.word(),
                    Op::Reduce(r) => r.kind.word(),
                    $(Op::$variant(_) => $name,)*
                }
            }

            /// The names of all ops in the text form, each kind of a family for itself.
            pub fn names() -> Vec<&'static str> {
                let families = ["unary", "binary", "reduce"];
                let kinds = BinaryKind::ALL.iter().map(|k| k.word()).chain(ReduceKind::ALL.iter().map(|k| k.word()));
                let own = [$($name,)*].into_iter().filter(|n| !families.contains(n));
                UnaryKind::NAMES.iter().copied().chain(kinds).chain(own).collect()
            }

            /// The attributes that differ from their defaults, in the order of their declaration.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                let mut out = vec![];
                match self { $(Op::$variant(a) => a.write(&mut out),)* }
                if let Op::Reduce(_) = self {
                    // The name says the kind.
                    out.retain(|(name, _)| *name != "kind");
                }
                out
            }

            /// The op of this name with these attributes.
            ///
            /// # Errors
            /// For an unknown name, an unknown attribute, or one of the wrong type.
            pub fn from_text(name: &str, attrs: Vec<(String, Attr)>) -> Result<Op, String> {
                let mut map = AttrMap(attrs);
                let op = if let Some(kind) = UnaryKind::from_name(name, &mut map) {
                    Op::Unary(Unary { kind: kind? })
                } else if let Some(kind) = BinaryKind::from_word(name) {
                    Op::Binary(Binary { kind })
                } else if let Some(kind) = ReduceKind::from_word(name) {
                    let mut r = Reduce::read(&mut map)?;
                    r.kind = kind;
                    Op::Reduce(r)
                } else {
                    match name {
                        $($name => Op::$variant($variant::read(&mut map)?),)*
                        _ => return Err(format!("unknown op `{name}`")),
                    }
                };
                match map.0.first() {
                    Some((unknown, _)) => Err(format!("op `{name}` has no attribute `{unknown}`")),
                    None => Ok(op),
                }
            }

            /// Declares the results for the operands; see [`infer`](crate::infer::infer).
            pub(crate) fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
                match self { $(Op::$variant(a) => a.infer(cx),)* }
            }
        }

        $(impl From<$variant> for Op {
            fn from(a: $variant) -> Op { Op::$variant(a) }
        })*
    };
}

// One line per op; families first. The name is that of the text form.
op_table! {
    Unary "unary",
    Binary "binary",
    Reduce "reduce",
    Const "const",
    // elementwise
    Where "where",
    Clip "clip",
    Cast "cast",
    BitCast "bitcast",
    // shape
    ShapeOf "shape",
    SizeOf "size",
    Reshape "reshape",
    Flatten "flatten",
    Squeeze "squeeze",
    Unsqueeze "unsqueeze",
    Transpose "transpose",
    Expand "expand",
    Tile "tile",
    Range "range",
    // slice
    Concat "concat",
    Split "split",
    Slice "slice",
    // reduce
    ArgReduce "arg_reduce",
    // matmul
    MatMul "matmul",
    // nn: convolution, pooling, normalization, resizing, recurrence, quantization
    Conv "conv",
    ConvTranspose "conv_transpose",
    DeformConv "deform_conv",
    MaxPool "max_pool",
    AveragePool "average_pool",
    LpPool "lp_pool",
    MaxUnpool "max_unpool",
    MaxRoiPool "max_roi_pool",
    RoiAlign "roi_align",
    BatchNorm "batch_norm",
    LayerNorm "layer_norm",
    RmsNorm "rms_norm",
    InstanceNorm "instance_norm",
    GroupNorm "group_norm",
    Lrn "lrn",
    Softmax "softmax",
    LogSoftmax "log_softmax",
    Hardmax "hardmax",
    Resize "resize",
    GridSample "grid_sample",
    AffineGrid "affine_grid",
    Col2Im "col2im",
    Lstm "lstm",
    Gru "gru",
    Rnn "rnn",
    QuantizeLinear "quantize",
    DequantizeLinear "dequantize",
    DynamicQuantize "dynamic_quantize",
    MatMulInteger "matmul_integer",
    ConvInteger "conv_integer",
    QuantizedConv "quantized_conv",
    QuantizedMatMul "quantized_matmul",
    QuantizedBinary "quantized_binary",
    ByteTable "byte_table",

    // data: gathering, scattering, padding, sorting, control flow, sequences
    Gather "gather",
    GatherElements "gather_elements",
    GatherND "gather_nd",
    If "if",
    Loop "loop",
    Scan "scan",
    Pad "pad",
    Trilu "trilu",
    EyeLike "eye_like",
    ScatterElements "scatter_elements",
    ScatterND "scatter_nd",
    TensorScatter "tensor_scatter",
    TopK "top_k",
    Unique "unique",
    NonZero "non_zero",
    Compress "compress",
    CumSum "cum_sum",
    CumProd "cum_prod",
    OneHot "one_hot",
    ReverseSequence "reverse_sequence",
    RandomUniform "random_uniform",
    RandomNormal "random_normal",
    Bernoulli "bernoulli",
    Multinomial "multinomial",
    SequenceConstruct "sequence_construct",
    SequenceEmpty "sequence_empty",
    SequenceInsert "sequence_insert",
    SequenceErase "sequence_erase",
    SequenceAt "sequence_at",
    SequenceLength "sequence_length",
    SplitToSequence "split_to_sequence",
    ConcatFromSequence "concat_from_sequence",
    OptionalOf "optional",
    OptionalHasElement "optional_has_element",
    OptionalGetElement "optional_get_element",

    // more: attention, losses, signals, text, detection
    NllLoss "nll_loss",
    SoftmaxCrossEntropy "softmax_cross_entropy",
    Attention "attention",
    RotaryEmbedding "rotary_embedding",
    Einsum "einsum",
    Det "det",
    LinearAttention "linear_attention",
    CausalConv "causal_conv",
    Dft "dft",
    Stft "stft",
    WindowFunction "window",
    MelWeights "mel_weights",
    NonMaxSuppression "non_max_suppression",
    StringConcat "string_concat",
    StringSplit "string_split",
    StringNormalize "string_normalize",
    RegexFullMatch "regex_full_match",
    Ngrams "ngrams",
    TreeEnsemble "tree_ensemble",
    Lookup "lookup",
}

impl Op {
    /// Whether running it twice on the same operands may give different results.
    pub fn is_random(&self) -> bool {
        matches!(self, Op::RandomUniform(_) | Op::RandomNormal(_) | Op::Bernoulli(_) | Op::Multinomial(_))
            || self.bodies().iter().any(|b| b.nodes().any(|(_, n)| n.op.is_random()))
    }

    /// The bodies of a control-flow op.
    pub fn bodies(&self) -> Vec<&crate::Graph> {
        match self {
            Op::If(o) => vec![&o.then_branch.0, &o.else_branch.0],
            Op::Loop(o) => vec![&o.body.0],
            Op::Scan(o) => vec![&o.body.0],
            _ => vec![],
        }
    }
}
