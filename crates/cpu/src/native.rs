//! What a native kernel looks like to a plan.
//!
//! Each op family has one function that, for operands of concrete types, prepares a [`Native`]: strides,
//! tables and packed weights are computed there, once, and what is left is a closure over plain bytes.
//! Steps of fixed sizes prepare when their state is made, those of sizes known only later while they run;
//! both run the same closures.

use crate::cache::{Cache, Source};
use crate::order::Order;
use crate::tune::Tuner;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::any::Any;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tensormill_ir::ops::Op;
use tensormill_kernels::channels_last::{
    conv::ConvWeights, depthwise::DepthwiseWeights, linear::LinearWeights,
};
use tensormill_kernels::{KernelError, packed::Packed, threads::Pool};
use tensormill_tensor::{DType, Element, Shape, Tensor, TensorError, arena};

/// Why a step failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fail(pub String);

impl From<KernelError> for Fail {
    fn from(e: KernelError) -> Fail {
        Fail(e.to_string())
    }
}

impl From<TensorError> for Fail {
    fn from(e: TensorError) -> Fail {
        Fail(e.to_string())
    }
}

/// An operand as a kernel sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub bytes: &'a [u8],
    /// Bytes from one row to the next, where rows lie apart.
    pub pitch: Option<usize>,
}

impl<'a> View<'a> {
    /// The elements.
    pub fn get<T: Element>(&self) -> Result<&'a [T], Fail> {
        arena::elements(self.bytes).ok_or_else(|| Fail("an operand is not aligned".into()))
    }
}

/// A call of a kernel.
pub(crate) struct Call<'c, 'a> {
    pub pool: &'c Pool,
    pub ins: &'c [Option<View<'a>>],
    pub outs: &'c mut [&'a mut [u8]],
    /// The operand whose elements are in the first result already, to be overwritten.
    pub in_place: bool,
    /// Bytes from one row of the first result to the next, where rows lie apart.
    pub out_pitch: Option<usize>,
}

impl<'a> Call<'_, 'a> {
    /// Elements from one row of an operand to the next: `run`, the row's own, unless rows lie apart.
    pub fn pitch<T>(&self, i: usize, run: usize) -> usize {
        let pitch = self.ins.get(i).copied().flatten().and_then(|v| v.pitch);
        pitch.map_or(run, |bytes| bytes / size_of::<T>())
    }

    /// As [`Call::pitch`], for the first result.
    pub fn out_pitch<T>(&self, run: usize) -> usize {
        self.out_pitch.map_or(run, |bytes| bytes / size_of::<T>())
    }

    /// The elements of an operand that must be there.
    pub fn get<T: Element>(&self, i: usize) -> Result<&'a [T], Fail> {
        self.view(i)?.get()
    }

    /// An operand that must be there.
    pub fn view(&self, i: usize) -> Result<View<'a>, Fail> {
        self.ins.get(i).copied().flatten().ok_or_else(|| Fail(format!("operand {i} is missing")))
    }

    /// The elements of a result, for writing.
    pub fn out<T: Element>(&mut self, i: usize) -> Result<&mut [T], Fail> {
        arena::elements_mut(self.outs[i]).ok_or_else(|| Fail("a result is not aligned".into()))
    }
}

/// A kernel's call.
pub(crate) type Run = Box<dyn Fn(&mut Call<'_, '_>) -> Result<(), Fail> + Send + Sync>;

/// A kernel prepared for operands of concrete types.
pub(crate) struct Native {
    /// For reports.
    pub name: &'static str,
    /// Why this kernel, for reports.
    pub reason: String,
    /// Floating-point operations of one call.
    pub flops: u64,
    /// Whether the first operand's memory may be the first result's.
    pub in_place: bool,
    /// A constant operand that the kernel keeps in packed form: runs need not have it.
    pub packed: Option<usize>,
    /// Operands that need not be aligned for their elements.
    pub anywhere: SmallVec<[usize; 2]>,
    /// Operands whose rows may lie apart, as parts of wider rows, and the elements of a row.
    pub reads_rows: SmallVec<[(usize, usize); 2]>,
    /// The elements of a row of the only result, if its rows may lie apart.
    pub writes_rows: Option<usize>,
    pub run: Run,
}

impl Native {
    pub fn new(
        name: &'static str,
        run: impl Fn(&mut Call<'_, '_>) -> Result<(), Fail> + Send + Sync + 'static,
    ) -> Built {
        Ok(Native {
            name,
            reason: String::new(),
            flops: 0,
            in_place: false,
            packed: None,
            anywhere: SmallVec::new(),
            reads_rows: SmallVec::new(),
            writes_rows: None,
            run: Box::new(run),
        })
    }

    /// The elements of a row of this operand, if the kernel takes rows that lie apart.
    pub fn row_read(&self, operand: usize) -> Option<usize> {
        self.reads_rows.iter().find(|r| r.0 == operand).map(|r| r.1)
    }
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Native").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A kernel, or why there is none.
pub(crate) type Built = Result<Native, Cow<'static, str>>;

/// What is known of an operand when its kernel is prepared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub dtype: DType,
    pub shape: &'a [usize],
    /// The tensor, if it is the same in every run of the plan: what may be packed once.
    pub constant: Option<&'a Tensor>,
    /// The tensor, if its elements are known now: what a kernel may be prepared for.
    pub known: Option<&'a Tensor>,
    /// Where the operand is a transposition that the kernel reads by strides: elements from one place to
    /// the next along each axis.
    pub strides: Option<&'a [usize]>,
    /// How the elements lie.
    pub order: Order,
}

impl Known<'_> {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements of a constant of integers.
    pub fn ints(&self) -> Option<Vec<i64>> {
        self.known.filter(|t| t.len() <= 65_536)?.to_i64_vec().ok()
    }

    /// The floats of a constant, wherever they lie.
    pub fn weights(&self) -> Option<(&Tensor, &[[u8; 4]])> {
        self.constant.filter(|t| t.dtype() == DType::F32).map(|t| (t, t.bytes().as_chunks().0))
    }

    /// The only element of a constant, as f32.
    pub fn scalar_f32(&self) -> Option<f32> {
        let t = self.known.filter(|t| t.len() == 1 && t.dtype() == DType::F32)?;
        t.to_slice::<f32>().ok()?.first().copied()
    }
}

/// Operands, results and surroundings of a kernel to be.
pub(crate) struct Prep<'a> {
    pub op: &'a Op,
    pub ins: &'a [Option<Known<'a>>],
    pub outs: &'a [(DType, Shape)],
    pub pool: &'a Pool,
    pub weights: &'a Weights,
    /// Of a product whose right operand is nowhere in memory: the constants that are its columns, one after the
    /// other.
    pub beside: &'a [Tensor],
    /// Names the node in the cache of packed weights; `None` outside a plan.
    pub node: Option<usize>,
    /// Whether kernels may round more for fewer multiplications.
    pub fewer_multiplications: bool,
    /// Measures kernels, where that is asked for.
    pub tuner: Option<&'a Tuner>,
}

impl<'a> Prep<'a> {
    pub fn opt(&self, i: usize) -> Option<Known<'a>> {
        self.ins.get(i).copied().flatten()
    }

    pub fn get(&self, i: usize) -> Result<Known<'a>, Cow<'static, str>> {
        self.opt(i).ok_or(Cow::Borrowed("an operand is missing"))
    }

    pub fn out(&self) -> &'a Shape {
        &self.outs[0].1
    }

    pub fn out_dtype(&self) -> DType {
        self.outs[0].0
    }

    /// Fails unless the operand, if given, has this dtype.
    pub fn need(&self, i: usize, dtype: DType) -> Result<(), Cow<'static, str>> {
        match self.opt(i) {
            Some(k) if k.dtype != dtype => Err(format!("no kernel for {}", k.dtype).into()),
            _ => Ok(()),
        }
    }
}

/// Weights that can be put together from what they packed earlier.
pub(crate) trait Stored: Any + Send + Sync {
    /// What to store.
    fn packed(&self) -> &Packed;
}

impl Stored for LinearWeights {
    fn packed(&self) -> &Packed {
        LinearWeights::packed(self)
    }
}

impl Stored for ConvWeights {
    fn packed(&self) -> &Packed {
        ConvWeights::packed(self)
    }
}

impl Stored for DepthwiseWeights {
    fn packed(&self) -> &Packed {
        DepthwiseWeights::packed(self)
    }
}

/// Packed weights in memory.
struct Held {
    weights: Arc<dyn Any + Send + Sync>,
    bytes: usize,
    /// What the cache on disk is to keep, with its sum if it came from there.
    stored: Option<(Source, Packed, Option<u64>)>,
}

/// A node's weights for a kernel: node, kind and variant.
type Slot = (usize, &'static str, usize);

/// Weights packed once for all states of a plan.
#[derive(Default)]
pub(crate) struct Weights {
    held: Mutex<FxHashMap<Slot, Held>>,
    pub cache: Option<Cache>,
}

impl Weights {
    fn held(&self) -> MutexGuard<'_, FxHashMap<Slot, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found<T: Any + Send + Sync>(held: &FxHashMap<Slot, Held>, slot: &Slot) -> Option<Arc<T>> {
        held.get(slot)?.weights.clone().downcast::<T>().ok()
    }

    /// The packed form `kind` and `variant` of a node's weights; made by `pack`, which also tells its size in
    /// bytes. The memory of weights that lie in a mapped file is given back.
    pub fn get<T: Any + Send + Sync, E>(
        &self,
        node: Option<usize>,
        kind: &'static str,
        variant: usize,
        from: &[&Tensor],
        pack: impl FnOnce() -> Result<(T, usize), E>,
    ) -> Result<Arc<T>, E> {
        let Some(node) = node else { return pack().map(|p| Arc::new(p.0)) };
        let mut held = self.held();
        let slot = (node, kind, variant);
        if let Some(found) = Self::found(&held, &slot) {
            return Ok(found);
        }
        let (made, bytes) = pack()?;
        for t in from {
            t.release();
        }
        let made = Arc::new(made);
        held.insert(slot, Held { weights: made.clone(), bytes, stored: None });
        Ok(made)
    }

    /// As [`Weights::get`], for weights that the cache on disk may have: `restore` puts them together, if they
    /// were packed from the same tensors for the same `sizes`.
    pub fn get_stored<T: Stored>(
        &self,
        pool: &Pool,
        (node, kind, variant): (Option<usize>, &'static str, usize),
        from: &[&Tensor],
        sizes: &[usize],
        restore: impl FnOnce(Packed) -> Result<T, KernelError>,
        pack: impl FnOnce() -> Result<T, KernelError>,
    ) -> Result<Arc<T>, String> {
        let text = |e: KernelError| e.to_string();
        let Some(node) = node else { return pack().map(Arc::new).map_err(text) };
        let mut held = self.held();
        let slot = (node, kind, variant);
        if let Some(found) = Self::found(&held, &slot) {
            return Ok(found);
        }
        let cache = self.cache.as_ref();
        let source = cache.map(|_| Source::of(pool, node, kind, variant, from, sizes));
        let found = cache.zip(source.as_ref()).and_then(|(cache, source)| {
            let (packed, sum) = cache.get(pool, source)?;
            Some((restore(packed).ok()?, Some(sum)))
        });
        let (made, sum) = match found {
            Some(found) => found,
            None => (pack().map_err(text)?, None),
        };
        for t in from {
            t.release();
        }
        let made = Arc::new(made);
        let packed = made.packed().clone();
        let bytes = packed.bytes().len();
        let stored = source.map(|source| (source, packed, sum));
        held.insert(slot, Held { weights: made.clone(), bytes, stored });
        Ok(made)
    }

    /// Brings the cache on disk up to date, if anything was packed that it does not have.
    pub fn save(&self, pool: &Pool) {
        let Some(cache) = &self.cache else { return };
        let mut held = self.held();
        let stored: Vec<_> = held.values_mut().filter_map(|h| h.stored.as_mut()).collect();
        if stored.iter().all(|s| s.2.is_some()) {
            return;
        }
        let summed = stored.into_iter().map(|(source, packed, sum)| {
            let sum = *sum.get_or_insert_with(|| crate::cache::sum(pool, packed));
            (*source, packed.clone(), sum)
        });
        cache.save(pool, summed);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held().values().map(|h| h.bytes).sum()
    }
}

/// The element sizes that copies move.
macro_rules! by_size {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            16 => {
                type $t = tensormill_tensor::Complex<f64>;
                $body
            }
            _ => Err("no kernel for elements of this width".into()),
        }
    };
}
pub(crate) use by_size;

/// Sizes and strides that fit most ops without allocating.
pub(crate) type Sizes = SmallVec<[usize; 6]>;

/// A kernel for an op over operands of these types, or why there is none.
pub(crate) fn prepare(p: &Prep<'_>) -> Built {
    let widths = |d: DType| d.size().is_some() && d != DType::Str;
    // Weights of four bits are packed, and never seen as elements.
    let packs = matches!(p.op, Op::QuantizedMatMul(_));
    if !packs && !p.ins.iter().flatten().all(|k| widths(k.dtype)) || !p.outs.iter().all(|o| widths(o.0)) {
        return Err("elements are no whole bytes".into());
    }
    match p.op {
        Op::Unary(u) => crate::elementwise::unary(p, u.kind),
        Op::Binary(b) => crate::elementwise::binary(p, b.kind),
        Op::Where(_) => crate::elementwise::choose(p),
        Op::Clip(_) => crate::elementwise::clip(p),
        Op::Cast(_) => crate::elementwise::cast(p),
        Op::MatMul(m) => crate::matmul::matmul(p, m),
        Op::Attention(o) => crate::attention::attention(p, o),
        Op::RotaryEmbedding(o) => crate::attention::rotary(p, o),
        Op::Reduce(r) => crate::reduce::reduce(p, r),
        Op::ArgReduce(r) => crate::reduce::arg_reduce(p, r),
        Op::Transpose(t) => crate::shape::transpose(p, t),
        Op::Expand(_) => crate::shape::expand(p),
        Op::Tile(_) => crate::shape::tile(p),
        Op::Concat(c) => crate::slice::concat(p, c),
        Op::Split(s) => crate::slice::split(p, s),
        Op::Slice(_) => crate::slice::slice(p),
        Op::Conv(c) => crate::conv::conv(p, c),
        Op::ConvTranspose(c) => crate::conv::conv_transpose(p, c),
        Op::MaxPool(o) => crate::pool::max_pool(p, o),
        Op::AveragePool(o) => crate::pool::average_pool(p, o),
        Op::BatchNorm(o) => crate::norm::batch_norm(p, o),
        Op::LayerNorm(o) => crate::norm::layer_norm(p, o),
        Op::RmsNorm(o) => crate::norm::rms_norm(p, o),
        Op::InstanceNorm(o) => crate::norm::group_norm(p, None, o.epsilon.0),
        Op::GroupNorm(o) => crate::norm::group_norm(p, Some(o.groups), o.epsilon.0),
        Op::Softmax(o) => crate::softmax::softmax(p, o.axis, false),
        Op::LogSoftmax(o) => crate::softmax::softmax(p, o.axis, true),
        Op::CumSum(o) => crate::sort::running(p, true, o.exclusive, o.reverse),
        Op::CumProd(o) => crate::sort::running(p, false, o.exclusive, o.reverse),
        Op::Gather(o) => crate::gather::gather(p, o),
        Op::Pad(o) => crate::pad::pad(p, o),
        Op::Resize(o) => crate::resize::resize(p, o),
        Op::QuantizedMatMul(o) => crate::quantize::matmul(p, o),
        Op::ByteTable(_) => crate::quantize::table(p),
        Op::QuantizedBinary(o) => crate::quantize::binary(p, o),
        Op::ConvInteger(o) => crate::quantize::conv_integer(p, o),
        Op::MatMulInteger(_) => crate::quantize::matmul_integer(p),
        Op::DynamicQuantize(_) => crate::quantize::dynamic_quantize(p),
        Op::QuantizeLinear(o) => crate::quantize::quantize(p, o),
        Op::DequantizeLinear(_) => crate::quantize::dequantize(p),
        Op::Lstm(o) => crate::recurrent::lstm(p, o),
        Op::Gru(o) => crate::recurrent::gru(p, o),
        Op::Rnn(o) => crate::recurrent::rnn(p, o),
        _ => Err("the CPU backend has no kernel for this op".into()),
    }
}
