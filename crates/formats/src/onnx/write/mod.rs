//! A graph to a model: the inverse of [`lower`](super::lower()).
//!
//! One file per op family, as there. An op is written as the operator that it was read from where that can
//! be told, in the oldest operator set from 21 on that has all operators: engines that know no newer one
//! run it too. Fused forms are written as the operators that they stand for. What ONNX cannot say is an
//! error that lists every such node.

mod error;
mod file;
mod graph;
mod names;
mod node;
mod pattern;
mod types;

mod attention;
mod control;
mod conv;
mod elementwise;
mod integer;
mod matmul;
mod norm;
mod pool;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod sequence;
mod shape;
mod signal;
mod sort;
mod text;
mod trees;

pub use error::{UnwritableNode, WriteError};
pub use file::{WriteOptions, to_bytes, write_file};

use super::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use error::{Result, refuse};
use graph::Writer;
use node::NodeCx;
use pattern::Form;
use std::collections::BTreeMap;
use tensormill_ir::{Graph, Op};

/// The message of a model; constants share their bytes with the graph's. Equal graphs give equal messages.
///
/// Metadata whose key begins with `onnx.` is what the file says of itself: `onnx.domain` and `onnx.doc` are
/// kept, the rest is the writer's to say.
///
/// # Errors
/// [`WriteError::Unwritable`] with every node that ONNX has no operators for, and [`WriteError::Name`].
pub fn write(g: &Graph, metadata: &BTreeMap<String, String>) -> std::result::Result<ModelProto, WriteError> {
    let mut w = Writer::new();
    let graph = w.main(g)?;
    if !w.problems.is_empty() {
        return Err(WriteError::Unwritable(w.problems));
    }
    let mut opset_import = vec![OperatorSetIdProto { domain: String::new(), version: w.opset }];
    if let Some(version) = w.ml {
        opset_import.push(OperatorSetIdProto { domain: "ai.onnx.ml".into(), version });
    }
    let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
    let entry =
        |(key, value): (&String, &String)| StringStringEntryProto { key: key.clone(), value: value.clone() };
    Ok(ModelProto {
        ir_version: ir_version(w.opset),
        producer_name: "tensormill".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        domain: text("onnx.domain"),
        doc_string: text("onnx.doc"),
        graph: Some(graph),
        opset_import,
        metadata_props: metadata.iter().filter(|(k, _)| !k.starts_with("onnx.")).map(entry).collect(),
        ..ModelProto::default()
    })
}

/// The version of the file format that an operator set came with.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        _ => 14,
    }
}

fn write_node(cx: &mut NodeCx<'_, '_, '_>, form: &Form) -> Result<()> {
    match form {
        Form::Plain => plain(cx),
        Form::Gemm { product, c } => {
            let product = cx.g().node(*product);
            matmul::gemm(cx, product, *c)
        }
        Form::Integer(factors) => match &cx.node.op {
            Op::Conv(op) => conv::conv_integer(cx, op, factors),
            _ => matmul::matmul_integer(cx, factors),
        },
        Form::DynamicQuantize { x, y, scale, point } => {
            quantize::dynamic_quantize(cx, *x, [*y, *scale, *point])
        }
    }
}

/// A node as the operator of its own op.
fn plain(cx: &mut NodeCx<'_, '_, '_>) -> Result<()> {
    let named = |cx: &mut NodeCx<'_, '_, '_>, op_type: &str| {
        cx.plain(op_type);
        Ok(())
    };
    match &cx.node.op {
        Op::Const(_) => refuse("a constant is no node"),
        Op::Unary(op) => elementwise::unary(cx, op.kind),
        Op::Binary(op) => elementwise::binary(cx, op.kind),
        Op::Reduce(op) => reduce::reduce(cx, op),
        Op::Where(_) => named(cx, "Where"),
        Op::Clip(_) => named(cx, "Clip"),
        Op::Cast(op) => elementwise::cast(cx, op),
        Op::BitCast(op) => {
            cx.plain("BitCast").dtype("to", op.to);
            Ok(())
        }
        Op::ShapeOf(op) => shape::shape_of(cx, op),
        Op::SizeOf(_) => named(cx, "Size"),
        Op::Reshape(op) => shape::reshape(cx, op),
        Op::Flatten(op) => shape::flatten(cx, op),
        Op::Squeeze(_) => named(cx, "Squeeze"),
        Op::Unsqueeze(_) => named(cx, "Unsqueeze"),
        Op::Transpose(op) => shape::transpose(cx, op),
        Op::Expand(_) => named(cx, "Expand"),
        Op::Tile(_) => named(cx, "Tile"),
        Op::Range(_) => named(cx, "Range"),
        Op::Concat(op) => shape::along(cx, "Concat", op.axis),
        Op::Split(op) => shape::split(cx, op),
        Op::Slice(_) => named(cx, "Slice"),
        Op::ArgReduce(op) => reduce::arg_reduce(cx, op),
        Op::MatMul(op) => matmul::matmul(cx, op),
        Op::Conv(op) => conv::conv(cx, op),
        Op::ConvTranspose(op) => conv::conv_transpose(cx, op),
        Op::DeformConv(op) => conv::deform_conv(cx, op),
        Op::MaxPool(op) => pool::max_pool(cx, op),
        Op::AveragePool(op) => pool::average_pool(cx, op),
        Op::LpPool(op) => pool::lp_pool(cx, op),
        Op::MaxUnpool(op) => pool::max_unpool(cx, op),
        Op::MaxRoiPool(op) => pool::max_roi_pool(cx, op),
        Op::RoiAlign(op) => pool::roi_align(cx, op),
        Op::BatchNorm(op) => norm::batch_norm(cx, op),
        Op::LayerNorm(op) => norm::layer_norm(cx, op),
        Op::RmsNorm(op) => norm::rms_norm(cx, op),
        Op::InstanceNorm(op) => norm::instance_norm(cx, op),
        Op::GroupNorm(op) => norm::group_norm(cx, op),
        Op::Lrn(op) => norm::lrn(cx, op),
        Op::Softmax(op) => shape::along(cx, "Softmax", op.axis),
        Op::LogSoftmax(op) => shape::along(cx, "LogSoftmax", op.axis),
        Op::Hardmax(op) => shape::along(cx, "Hardmax", op.axis),
        Op::Resize(op) => resize::resize(cx, op),
        Op::GridSample(op) => resize::grid_sample(cx, op),
        Op::AffineGrid(op) => resize::affine_grid(cx, op),
        Op::Col2Im(op) => resize::col2im(cx, op),
        Op::Lstm(op) => recurrent::lstm(cx, op),
        Op::Gru(op) => recurrent::gru(cx, op),
        Op::Rnn(op) => recurrent::rnn(cx, op),
        Op::QuantizeLinear(op) => quantize::quantize(cx, op),
        Op::DequantizeLinear(op) => quantize::dequantize(cx, op),
        Op::DynamicQuantize(_) => named(cx, "DynamicQuantizeLinear"),
        Op::MatMulInteger(_) => named(cx, "MatMulInteger"),
        Op::ConvInteger(op) => integer::conv_integer(cx, op),
        Op::QuantizedConv(op) => integer::conv(cx, op),
        Op::QuantizedMatMul(op) => integer::matmul(cx, op),
        Op::QuantizedBinary(op) => integer::binary(cx, op),
        Op::ByteTable(_) => integer::table(cx),
        Op::Gather(op) => shape::along(cx, "Gather", op.axis),
        Op::GatherElements(op) => shape::along(cx, "GatherElements", op.axis),
        Op::GatherND(op) => shape::gather_nd(cx, op),
        Op::If(op) => control::branch(cx, op),
        Op::Loop(op) => control::repeat(cx, op),
        Op::Scan(op) => control::scan(cx, op),
        Op::Pad(op) => shape::pad(cx, op),
        Op::Trilu(op) => shape::trilu(cx, op),
        Op::EyeLike(op) => shape::eye_like(cx, op),
        Op::ScatterElements(op) => shape::scatter_elements(cx, op.axis, op.reduction),
        Op::ScatterND(op) => shape::scatter_nd(cx, op.reduction),
        Op::TensorScatter(op) => shape::tensor_scatter(cx, op),
        Op::TopK(op) => sort::top_k(cx, op),
        Op::Unique(op) => sort::unique(cx, op),
        Op::NonZero(_) => named(cx, "NonZero"),
        Op::Compress(op) => sort::compress(cx, op),
        Op::CumSum(op) => sort::running(cx, "CumSum", op.exclusive, op.reverse),
        Op::CumProd(op) => sort::running(cx, "CumProd", op.exclusive, op.reverse),
        Op::OneHot(op) => shape::along(cx, "OneHot", op.axis),
        Op::ReverseSequence(op) => sort::reverse_sequence(cx, op),
        Op::RandomUniform(op) => random::uniform(cx, op),
        Op::RandomNormal(op) => random::normal(cx, op),
        Op::Bernoulli(op) => random::bernoulli(cx, op),
        Op::Multinomial(op) => random::multinomial(cx, op),
        Op::SequenceConstruct(_) => named(cx, "SequenceConstruct"),
        Op::SequenceEmpty(op) => sequence::empty(cx, op),
        Op::SequenceInsert(_) => named(cx, "SequenceInsert"),
        Op::SequenceErase(_) => named(cx, "SequenceErase"),
        Op::SequenceAt(_) => named(cx, "SequenceAt"),
        Op::SequenceLength(_) => named(cx, "SequenceLength"),
        Op::SplitToSequence(op) => sequence::split(cx, op),
        Op::ConcatFromSequence(op) => sequence::concat(cx, op),
        Op::OptionalOf(op) => sequence::optional(cx, op),
        Op::OptionalHasElement(_) => named(cx, "OptionalHasElement"),
        Op::OptionalGetElement(_) => named(cx, "OptionalGetElement"),
        Op::NllLoss(op) => {
            signal::labelled_loss(cx, "NegativeLogLikelihoodLoss", op.reduction, op.ignore_index)
        }
        Op::SoftmaxCrossEntropy(op) => {
            signal::labelled_loss(cx, "SoftmaxCrossEntropyLoss", op.reduction, op.ignore_index)
        }
        Op::Attention(op) => attention::attention(cx, op),
        Op::RotaryEmbedding(op) => attention::rotary(cx, op),
        Op::Einsum(op) => signal::einsum(cx, op),
        Op::Det(_) => named(cx, "Det"),
        Op::LinearAttention(op) => attention::linear(cx, op),
        Op::CausalConv(op) => attention::causal_conv(cx, op),
        Op::Dft(op) => signal::dft(cx, op),
        Op::Stft(op) => signal::stft(cx, op),
        Op::WindowFunction(op) => signal::window(cx, op),
        Op::MelWeights(op) => signal::mel_weights(cx, op),
        Op::NonMaxSuppression(op) => signal::non_max_suppression(cx, op),
        Op::StringConcat(_) => named(cx, "StringConcat"),
        Op::StringSplit(op) => text::split(cx, op),
        Op::StringNormalize(op) => text::normalize(cx, op),
        Op::RegexFullMatch(op) => {
            cx.plain("RegexFullMatch").string("pattern", &op.pattern);
            Ok(())
        }
        Op::Ngrams(op) => text::ngrams(cx, op),
        Op::TreeEnsemble(op) => trees::tree_ensemble(cx, op),
        Op::Lookup(_) => trees::lookup(cx),
    }
}
