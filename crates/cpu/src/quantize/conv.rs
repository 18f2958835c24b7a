//! Convolutions of bytes.

use super::{EXACT, Types, W, W_ZERO, X, constant, packed, zeros};
use crate::conv::{depthwise_now, depthwise_of, sizes};
use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Native, Prep, Stored};
use crate::order::{Order, channels_last};
use crate::tune::least;
use std::sync::Arc;
use tensormill_ir::ops::QuantizedConv;
use tensormill_kernels::KernelError;
use tensormill_kernels::conv::ConvShape;
use tensormill_kernels::packed::Packed;
use tensormill_kernels::quantized::{
    self as kernel, ByteMatrix, ByteWeights, Bytes, Output, Scaling,
    depthwise::{ByteDepthwise, MOST_TAPS},
    groups::{GroupWeights, MAX_STEPS, conv_in_groups},
    winograd::{self, Tiles, WinogradWeights},
};
use tensormill_kernels::threads::Pool;
use tensormill_tensor::Tensor;

impl Stored for WinogradWeights {
    fn packed(&self) -> &Packed {
        WinogradWeights::packed(self)
    }
}

/// Weights transformed and packed once for the node.
fn in_tiles(
    p: &Prep<'_>,
    from: &Tensor,
    matrix: &ByteMatrix<'_>,
    tiles: Tiles,
) -> Result<Arc<WinogradWeights>, String> {
    let zeros = matrix.zeros.iter().map(|&z| z as usize);
    let sizes: Vec<usize> = [matrix.taps, matrix.channels, matrix.columns]
        .into_iter()
        .chain(matrix.strides)
        .chain(zeros)
        .collect();
    let kind = if tiles == Tiles::Two { "bytes in tiles of 2" } else { "bytes in tiles of 4" };
    p.weights.get_stored(
        p.pool,
        (p.node, kind, 0),
        &[from],
        &sizes,
        |packed| WinogradWeights::from_packed(p.pool.level(), tiles, matrix, packed),
        || WinogradWeights::pack(p.pool, tiles, matrix),
    )
}

/// The tiles that a convolution is computed in, the best first, as estimated, or as measured where there is a choice;
/// none for the direct kernel. Sums are the same either way.
fn ways(
    p: &Prep<'_>,
    shape: &ConvShape,
    matrix: &ByteMatrix<'_>,
    (sizes, x_signed): (&[usize], bool),
    planes: bool,
) -> Vec<Tiles> {
    let level = p.pool.level();
    if planes || !Tiles::supports(level, shape) {
        return vec![];
    }
    let mut likely = Tiles::pick(level, shape);
    let Some(tuner) = p.tuner else { return likely };
    likely.retain(|&tiles| WinogradWeights::exact(tiles, matrix));
    let first = likely.first().copied();
    let mut candidates = vec![first];
    for other in [None, Some(Tiles::Two), Some(Tiles::Four)] {
        if other != first && other.is_none_or(|tiles| WinogradWeights::exact(tiles, matrix)) {
            candidates.push(other);
        }
    }
    // Choices are told by the order of the candidates.
    let kind = match first {
        None => "int8 conv, direct first",
        Some(Tiles::Two) => "int8 conv, tiles of 2 first",
        Some(Tiles::Four) => "int8 conv, tiles of 4 first",
    };
    let (mut x, mut out): (Vec<u8>, Vec<i32>) = (vec![], vec![]);
    let best = tuner.pick((kind, sizes), p.pool, &candidates, |tiles| {
        x.resize(shape.input_len(), 1);
        out.resize(shape.output_len(), 0);
        let x = Bytes { data: &x, signed: x_signed };
        let scaling = Scaling { x_scale: 1.0, x_zero: 0, scales: &[], bias: &[] };
        let Some(tiles) = tiles else {
            let (packed, order) =
                (ByteWeights::pack(p.pool, matrix).ok()?, kernel::Order::Pixels(matrix.channels));
            return least(|| {
                kernel::conv::conv(
                    p.pool,
                    shape,
                    x,
                    order,
                    &packed,
                    &scaling,
                    Output::Sums { out: &mut out, pitch: matrix.columns },
                )
            });
        };
        let packed = WinogradWeights::pack(p.pool, tiles, matrix).ok()?;
        least(|| {
            winograd::conv(
                p.pool,
                shape,
                x,
                matrix.channels,
                &packed,
                &scaling,
                Output::Sums { out: &mut out, pitch: matrix.columns },
            )
        })
    });
    best.into_iter().collect()
}

/// The weights of a convolution as they come.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    pub data: &'a [u8],
    pub signed: bool,
    pub zeros: &'a [i32],
    /// The sizes of the operand and of the weights.
    pub x: &'a [usize],
    pub w: &'a [usize],
    pub x_signed: bool,
    pub group: usize,
}

impl<'a> Filters<'a> {
    fn taps(&self) -> usize {
        self.w[2..].iter().product()
    }

    /// Whether every channel is convolved by itself, by few enough taps for the kernel of that.
    fn each(&self) -> bool {
        let channels = self.x[1];
        self.group == channels && self.w[0] == channels && channels > 1 && self.taps() <= MOST_TAPS
    }

    /// All weights, where there are no groups.
    fn matrix(&self) -> ByteMatrix<'a> {
        let (taps, channels) = (self.taps(), self.x[1]);
        ByteMatrix {
            data: self.data,
            signed: self.signed,
            taps,
            channels,
            columns: self.w[0],
            strides: [1, taps, taps * channels],
            zeros: self.zeros,
        }
    }
}

/// Packed weights, and with them the kernel that reads them.
pub(super) enum Way {
    /// Every channel by itself.
    Each(Arc<ByteDepthwise>),
    Groups(Arc<GroupWeights>),
    Tiles(Arc<WinogradWeights>),
    Direct(Arc<ByteWeights>),
}

impl Way {
    /// The fastest way for constant weights, packed once for the node.
    pub fn of(
        p: &Prep<'_>,
        shape: &ConvShape,
        f: &Filters<'_>,
        weights: &Tensor,
        pads: &[usize],
        planes: bool,
    ) -> Result<Way, String> {
        if f.each() {
            return Ok(Way::Each(depthwise_of(p, shape, weights, f.zeros)?));
        }
        if f.group != 1 {
            let packed = p.weights.get(p.node, "bytes in groups", 0, &[weights], || {
                let packed = GroupWeights::pack(p.pool, shape, f.data, f.signed, f.zeros);
                let packed = packed.map_err(|e| e.to_string())?;
                let bytes = packed.bytes();
                Ok::<_, String>((packed, bytes))
            })?;
            return Ok(Way::Groups(packed));
        }
        let matrix = f.matrix();
        let sizes: Vec<usize> = f.x.iter().chain(f.w).chain(pads).copied().collect();
        let ways = ways(p, shape, &matrix, (&sizes, f.x_signed), planes);
        // What may lead to sums that are too large is refused when it is packed.
        if let Some(packed) = ways.into_iter().find_map(|tiles| in_tiles(p, weights, &matrix, tiles).ok()) {
            return Ok(Way::Tiles(packed));
        }
        Ok(Way::Direct(packed(p, weights, &matrix)?))
    }

    /// A way for weights that are packed by themselves: `once` where a single run reads them.
    pub fn now(pool: &Pool, shape: &ConvShape, f: &Filters<'_>, once: bool) -> Result<Way, KernelError> {
        if f.each() {
            let packed = depthwise_now(pool.level(), shape, (f.data, f.signed), f.zeros, f.taps())?;
            return Ok(Way::Each(Arc::new(packed)));
        }
        if f.group != 1 {
            let packed = GroupWeights::pack(pool, shape, f.data, f.signed, f.zeros)?;
            return Ok(Way::Groups(Arc::new(packed)));
        }
        let pack = if once { ByteWeights::pack_for_once } else { ByteWeights::pack };
        Ok(Way::Direct(Arc::new(pack(pool, &f.matrix())?)))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Way::Each(w) => w.bytes(),
            Way::Groups(w) => w.bytes(),
            Way::Tiles(w) => w.packed().bytes().len(),
            Way::Direct(w) => w.bytes(),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Way::Each(_) => "int8-depthwise",
            Way::Groups(_) => "int8-conv-groups",
            Way::Tiles(_) => "int8-winograd",
            Way::Direct(_) => "int8-conv",
        }
    }

    /// Convolves what lies in this order; the result's rows are pixels.
    pub fn run(
        &self,
        pool: &Pool,
        shape: &ConvShape,
        (x, order): (Bytes<'_>, kernel::Order),
        scaling: &Scaling<'_>,
        output: Output<'_>,
    ) -> Result<(), KernelError> {
        use kernel::Order::{Pixels, Planes};
        match (self, order) {
            (Way::Direct(w), _) => kernel::conv::conv(pool, shape, x, order, w, scaling, output),
            (_, Planes) => Err(KernelError::Shape("this kernel wants channels last")),
            (Way::Each(w), Pixels(_)) => kernel::depthwise::depthwise(pool, shape, x, w, scaling, output),
            (Way::Groups(w), Pixels(pitch)) => conv_in_groups(pool, shape, x, pitch, w, scaling, output),
            (Way::Tiles(w), Pixels(pitch)) => winograd::conv(pool, shape, x, pitch, w, scaling, output),
        }
    }
}

/// A convolution whose result has its channels last; so has its operand, unless it is in plain order.
pub(crate) fn conv_channels_last(p: &Prep<'_>, op: &QuantizedConv) -> Built {
    let types = Types::of(p)?;
    let (x, w) = (p.get(X)?, p.get(W)?);
    if !(3..=4).contains(&x.shape.len()) || x.shape.len() != w.shape.len() {
        return Err("kernels have one or two spatial axes".into());
    }
    let (weights, signed) = constant(&w)?;
    let zeros = zeros(p, W_ZERO)?;
    let (channels, kernels) = (x.shape[1], w.shape[0]);
    if w.shape[1..].iter().product::<usize>() > EXACT {
        return Err("sums of so many products may not fit 32 bits".into());
    }
    let shape = sizes(&op.plain(), x.shape, w.shape)?;
    let out = channels_last(p.out());
    if shape.output_len() != out.numel() || shape.weights_len() != w.len() || out.contains(&0) {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let outs = [(p.out_dtype(), out.clone())];
    let memory = Prep { outs: &outs, ..*p };
    let rank = out.rank();
    let by_pixel = Layout { rows: rank - 2, columns: rank - 1..rank, merged: true };
    let steps = Steps::plan(&memory, &op.epilogue, Some(&by_pixel))?;
    if types.y_signed.is_some() && !steps.all_hot() {
        return Err("an operand of the epilogue lies in a way of its own".into());
    }
    let flops = shape.flops() as u64;
    let planes = x.order == Order::Plain;
    if op.group != 1 && planes {
        return Err("the kernel wants channels last".into());
    }
    let filters = Filters {
        data: weights.bytes(),
        signed,
        zeros: &zeros,
        x: x.shape,
        w: w.shape,
        x_signed: types.x_signed,
        group: op.group,
    };
    if op.group != 1 && !filters.each() && steps.len() > MAX_STEPS {
        return Err("no kernel of bytes in groups for so many steps".into());
    }
    let way = Way::of(p, &shape, &filters, weights, &op.pads, planes)?;
    let mut native = Native::new(way.name(), move |c| {
        types.run(c, &steps, kernels, |x, scaling, output, c| {
            let order = if planes { kernel::Order::Planes } else { kernel::Order::Pixels(channels) };
            Ok(way.run(c.pool, &shape, (x, order), scaling, output)?)
        })
    })?;
    native.packed = Some(W);
    native.flops = flops;
    native.reason = format!("{:?} by {:?}", x.shape, w.shape);
    Ok(native)
}
