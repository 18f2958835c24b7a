use crate::{
    EvalError, control, conv, elementwise, epilogue, error::refuse, gather, grid, integer, matmul, norm, pad,
    pool, quantize, random, recurrent, reduce, resize, scatter, sequence, shape, slice, softmax, sort,
};
use std::sync::Arc;
use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering},
};
use tensormill_ir::{Graph, ops::Op};
use tensormill_tensor::{Tensor, Value};

/// What an evaluation may use.
#[derive(Debug, Clone)]
pub struct EvalLimits<'a> {
    /// Elements of one result.
    pub max_elements: usize,
    /// Iterations of all loops together, for one call.
    pub max_trips: u64,
    /// Set by another thread to stop the evaluation between nodes.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for EvalLimits<'_> {
    /// A billion elements, ten million loop iterations.
    fn default() -> Self {
        EvalLimits { max_elements: 1 << 30, max_trips: 10_000_000, cancel: None }
    }
}

impl EvalLimits<'_> {
    /// Checks a result's size before anything is allocated for it. Axes of no elements count as one:
    /// loops over the others would still take their time.
    pub(crate) fn check(&self, shape: &[usize]) -> Result<(), EvalError> {
        match shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))) {
            Some(n) if n <= self.max_elements => Ok(()),
            n => Err(EvalError::TooLarge { elements: n.unwrap_or(usize::MAX), limit: self.max_elements }),
        }
    }

    /// Stops when the caller asked for it.
    pub(crate) fn check_cancel(&self) -> Result<(), EvalError> {
        match self.cancel {
            Some(c) if c.load(Ordering::Relaxed) => Err(EvalError::Cancelled),
            _ => Ok(()),
        }
    }
}

/// The operands of one op.
pub(crate) struct Operands<'a> {
    values: &'a [Option<&'a Value>],
    pub(crate) limits: &'a EvalLimits<'a>,
    /// Iterations of loops that the call may still use.
    pub(crate) trips: &'a Cell<u64>,
    /// Who runs the bodies of control flow; `None`: this crate.
    pub(crate) bodies: Option<&'a dyn Bodies>,
}

/// Runs the bodies of control flow in place of the interpreter.
pub trait Bodies {
    /// The results of a body; the loops inside may take at most `trips` iterations, and count them there.
    ///
    /// # Errors
    /// Whatever the body's nodes fail with.
    fn run(&self, body: &Arc<Graph>, inputs: &[Value], trips: &Cell<u64>) -> Result<Vec<Value>, EvalError>;
}

/// As [`eval`], with bodies run by `bodies` and iterations taken from `trips`.
///
/// # Errors
/// As [`eval`].
pub fn eval_with(
    op: &Op,
    operands: &[Option<&Value>],
    limits: &EvalLimits<'_>,
    trips: &Cell<u64>,
    bodies: &dyn Bodies,
) -> Result<Vec<Value>, EvalError> {
    eval_any(op, operands, limits, trips, Some(bodies))
}

impl<'a> Operands<'a> {
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// An operand that may be left out.
    pub(crate) fn opt(&self, i: usize) -> Option<&'a Value> {
        self.values.get(i).copied().flatten()
    }

    pub(crate) fn value(&self, i: usize) -> Result<&'a Value, EvalError> {
        self.opt(i).ok_or_else(|| EvalError::Operand(format!("operand {i} is missing")))
    }

    pub(crate) fn tensor(&self, i: usize) -> Result<&'a Tensor, EvalError> {
        Ok(self.value(i)?.as_tensor()?)
    }

    pub(crate) fn opt_tensor(&self, i: usize) -> Result<Option<&'a Tensor>, EvalError> {
        Ok(self.opt(i).map(Value::as_tensor).transpose()?)
    }
}

/// The results of an op on given operands; an operand left out is `None`.
///
/// # Errors
/// [`EvalError`] when the operands make no sense together or the limits are exceeded.
pub fn eval(op: &Op, operands: &[Option<&Value>], limits: &EvalLimits<'_>) -> Result<Vec<Value>, EvalError> {
    eval_counted(op, operands, limits, &Cell::new(limits.max_trips))
}

/// As [`eval`], within a call that may still use `trips` iterations of loops.
pub(crate) fn eval_counted(
    op: &Op,
    operands: &[Option<&Value>],
    limits: &EvalLimits<'_>,
    trips: &Cell<u64>,
) -> Result<Vec<Value>, EvalError> {
    eval_any(op, operands, limits, trips, None)
}

fn eval_any(
    op: &Op,
    operands: &[Option<&Value>],
    limits: &EvalLimits<'_>,
    trips: &Cell<u64>,
    bodies: Option<&dyn Bodies>,
) -> Result<Vec<Value>, EvalError> {
    limits.check_cancel()?;
    let x = Operands { values: operands, limits, trips, bodies };
    let one = |t: Result<Tensor, EvalError>| t.map(|t| vec![Value::Tensor(t)]);
    match op {
        Op::Const(c) => Ok(vec![c.tensor.clone().into()]),
        Op::Unary(o) => one(elementwise::unary(o.kind, x.tensor(0)?)),
        Op::Binary(o) => one(elementwise::binary(o.kind, x.tensor(0)?, x.tensor(1)?, limits)),
        Op::Where(_) => one(elementwise::choose(&x)),
        Op::Clip(_) => one(elementwise::clip(&x)),
        Op::Cast(o) => one(elementwise::cast(o, x.tensor(0)?)),
        Op::BitCast(o) => one(Ok(x.tensor(0)?.bitcast(o.to)?)),
        Op::ShapeOf(o) => one(shape::shape_of(o, x.tensor(0)?)),
        Op::SizeOf(_) => one(Ok(Tensor::scalar(x.tensor(0)?.len() as i64))),
        Op::Reshape(o) => one(shape::reshape(o, &x)),
        Op::Flatten(o) => one(shape::flatten(o, x.tensor(0)?)),
        Op::Squeeze(_) => one(shape::squeeze(&x)),
        Op::Unsqueeze(_) => one(shape::unsqueeze(&x)),
        Op::Transpose(o) => one(shape::transpose(o, x.tensor(0)?)),
        Op::Expand(_) => one(shape::expand(&x)),
        Op::Tile(_) => one(shape::tile(&x)),
        Op::Range(_) => one(shape::range(&x)),
        Op::Concat(o) => one(slice::concat(o, &x)),
        Op::Split(o) => slice::split(o, &x),
        Op::Slice(_) => one(slice::slice(&x)),
        Op::MatMul(o) => one(matmul::matmul(o, &x).and_then(|y| epilogue::apply(&o.epilogue, y, &x))),
        Op::Reduce(o) => one(reduce::reduce(o, &x)),
        Op::ArgReduce(o) => one(reduce::arg_reduce(o, x.tensor(0)?)),
        // nn
        Op::Conv(o) => one(conv::conv(o, &x).and_then(|y| epilogue::apply(&o.epilogue, y, &x))),
        Op::ConvTranspose(o) => one(conv::conv_transpose(o, &x)),
        Op::DeformConv(o) => one(conv::deform_conv(o, &x)),
        Op::MaxPool(o) => pool::max_pool(o, &x),
        Op::AveragePool(o) => one(pool::average_pool(o, &x)),
        Op::LpPool(o) => one(pool::lp_pool(o, &x)),
        Op::MaxUnpool(o) => one(pool::max_unpool(o, &x)),
        Op::MaxRoiPool(o) => one(pool::max_roi_pool(o, &x)),
        Op::RoiAlign(o) => one(pool::roi_align(o, &x)),
        Op::BatchNorm(o) => one(norm::batch_norm(o, &x)),
        Op::LayerNorm(o) => norm::layer_norm(o, &x),
        Op::RmsNorm(o) => one(norm::rms_norm(o, &x)),
        Op::InstanceNorm(o) => one(norm::instance_norm(o.epsilon.0, &x)),
        Op::GroupNorm(o) => one(norm::group_norm(o, &x)),
        Op::Lrn(o) => one(norm::lrn(o, &x)),
        Op::Softmax(o) => one(softmax::softmax(o.axis, x.tensor(0)?)),
        Op::LogSoftmax(o) => one(softmax::log_softmax(o.axis, x.tensor(0)?)),
        Op::Lstm(o) => recurrent::lstm(o, &x),
        Op::Gru(o) => recurrent::gru(o, &x),
        Op::Rnn(o) => recurrent::rnn(o, &x),
        Op::GridSample(o) => one(grid::grid_sample(o, &x)),
        Op::AffineGrid(o) => one(grid::affine_grid(o, &x)),
        Op::Col2Im(o) => one(grid::col2im(o, &x)),
        Op::Resize(o) => one(resize::resize(o, &x)),
        Op::QuantizeLinear(o) => one(quantize::quantize(o, &x)),
        Op::DequantizeLinear(o) => one(quantize::dequantize(o, &x)),
        Op::DynamicQuantize(_) => quantize::dynamic(x.tensor(0)?),
        Op::MatMulInteger(o) => one(integer::matmul_integer(o, &x)),
        Op::ConvInteger(o) => one(integer::conv_integer(o, &x)),
        Op::QuantizedConv(o) => one(integer::quantized_conv(o, &x)),
        Op::QuantizedMatMul(o) => one(integer::quantized_matmul(o, &x)),
        Op::QuantizedBinary(o) => one(integer::quantized_binary(o, &x)),
        Op::ByteTable(_) => one(integer::byte_table(&x)),
        Op::Hardmax(o) => one(softmax::hardmax(o.axis, x.tensor(0)?)),
        // data
        Op::If(o) => control::branch(o, &x),
        Op::Loop(o) => control::repeat(o, &x),
        Op::Scan(o) => control::scan(o, &x),
        Op::Pad(o) => one(pad::pad(o, &x)),
        Op::Trilu(o) => one(pad::trilu(o, &x)),
        Op::EyeLike(o) => one(pad::eye_like(o, &x)),
        Op::ScatterElements(o) => one(scatter::elements(o, &x)),
        Op::ScatterND(o) => one(scatter::nd(o, &x)),
        Op::TensorScatter(o) => one(scatter::cache(o, &x)),
        Op::TopK(o) => sort::top_k(o, &x),
        Op::Unique(o) => sort::unique(o, &x),
        Op::NonZero(_) => one(sort::non_zero(&x)),
        Op::Compress(o) => one(sort::compress(o, &x)),
        Op::CumSum(o) => one(sort::running(true, o.exclusive, o.reverse, &x)),
        Op::CumProd(o) => one(sort::running(false, o.exclusive, o.reverse, &x)),
        Op::OneHot(o) => one(sort::one_hot(o, &x)),
        Op::ReverseSequence(o) => one(sort::reverse_sequence(o, &x)),
        Op::RandomUniform(o) => one(random::uniform(o, &x)),
        Op::RandomNormal(o) => one(random::normal(o, &x)),
        Op::Bernoulli(o) => one(random::bernoulli(o, &x)),
        Op::Multinomial(o) => one(random::multinomial(o, &x)),
        Op::SequenceConstruct(_) => sequence::construct(&x).map(|v| vec![v]),
        Op::SequenceEmpty(_) => Ok(vec![Value::Sequence(vec![])]),
        Op::SequenceInsert(_) => sequence::insert(&x).map(|v| vec![v]),
        Op::SequenceErase(_) => sequence::erase(&x).map(|v| vec![v]),
        Op::SequenceAt(_) => sequence::at(&x).map(|v| vec![v]),
        Op::SequenceLength(_) => sequence::length(&x).map(|v| vec![v]),
        Op::SplitToSequence(o) => sequence::split(o, &x).map(|v| vec![v]),
        Op::ConcatFromSequence(o) => one(sequence::concat(o, &x)),
        Op::OptionalOf(_) => Ok(vec![sequence::optional(&x)]),
        Op::OptionalHasElement(_) => one(sequence::has_element(&x)),
        Op::OptionalGetElement(_) => sequence::get_element(&x).map(|v| vec![v]),
        Op::Gather(o) => one(gather::gather(o, &x)),
        Op::GatherElements(o) => one(gather::gather_elements(o, &x)),
        Op::GatherND(o) => one(gather::gather_nd(o, &x)),
        // more
        Op::NllLoss(o) => one(crate::loss::nll(o, &x)),
        Op::SoftmaxCrossEntropy(o) => crate::loss::cross_entropy(o, &x),
        Op::Attention(o) => crate::attention::attention(o, &x),
        Op::RotaryEmbedding(o) => one(crate::attention::rotary(o, &x)),
        Op::Einsum(o) => one(crate::einsum::einsum(o, &x)),
        Op::Det(_) => one(crate::einsum::det(x.tensor(0)?)),
        Op::LinearAttention(o) => crate::linear_attention::linear(o, &x),
        Op::CausalConv(o) => crate::linear_attention::causal_conv(o, &x),
        Op::Dft(o) => one(crate::signal::dft(o, &x)),
        Op::Stft(o) => one(crate::signal::stft(o, &x)),
        Op::WindowFunction(o) => one(crate::signal::window(o, &x)),
        Op::MelWeights(o) => one(crate::signal::mel_weights(o, &x)),
        Op::NonMaxSuppression(o) => one(crate::detection::non_max_suppression(o, &x)),
        Op::StringConcat(_) => one(crate::text::concat(&x)),
        Op::StringSplit(o) => crate::text::split(o, &x),
        Op::StringNormalize(o) => one(crate::text::normalize(o, x.tensor(0)?)),
        Op::RegexFullMatch(o) => one(crate::text::full_match(o, x.tensor(0)?)),
        Op::Ngrams(o) => one(crate::text::ngrams(o, &x)),
        Op::TreeEnsemble(o) => one(crate::trees::trees(o, &x)),
        Op::Lookup(_) => one(crate::trees::lookup(&x)),
    }
}

/// A refusal of an operand's dtype.
pub(crate) fn wrong_dtype<T>(t: &Tensor) -> Result<T, EvalError> {
    refuse(format!("is not defined for {}", t.dtype()))
}
