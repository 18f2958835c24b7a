//! In which order a value's elements lie: as its shape says, or with the channels innermost.
//!
//! A value keeps its shape whatever its order; only kernels that were prepared for it see the difference.

use smallvec::SmallVec;
use tensormill_ir::ops::{Concat, Op, Split, Transpose};
use tensormill_tensor::Shape;

/// The order of a value's elements in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Order {
    /// Row-major, as the shape says.
    #[default]
    Plain,
    /// The channels (axis 1) innermost: the elements of one pixel lie side by side.
    ChannelsLast,
}

/// The axes of a shape of this rank in the order in which memory has them.
pub(crate) fn axes(rank: usize) -> SmallVec<[usize; 6]> {
    std::iter::once(0).chain(2..rank).chain([1]).collect()
}

/// The shape that memory has when the channels lie innermost.
pub(crate) fn channels_last(shape: &[usize]) -> Shape {
    axes(shape.len()).into_iter().map(|a| shape[a]).collect()
}

/// Whether both orders are the same: one channel, or one pixel.
pub(crate) fn either(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().product::<usize>() == 1 || shape.contains(&0)
}

/// The shape with axes of one element before it, as broadcasting reads it.
pub(crate) fn padded(shape: &[usize], rank: usize) -> Shape {
    std::iter::repeat_n(1, rank.saturating_sub(shape.len())).chain(shape.iter().copied()).collect()
}

/// The op that does to the shapes that memory has what `op` does to the shapes of the values, where there
/// is one whose operands and results all have the channels last.
pub(crate) fn in_memory(op: &Op, rank: usize) -> Option<Op> {
    let place = |axis: i64| -> Option<i64> {
        let axis = tensormill_ir::infer::axis(axis, rank).ok()?;
        Some(axes(rank).iter().position(|&a| a == axis)? as i64)
    };
    Some(match op {
        Op::Unary(_) | Op::Binary(_) | Op::Where(_) | Op::Clip(_) | Op::Cast(_) => op.clone(),
        // Their kernels take one scale for all elements only.
        Op::QuantizeLinear(_) | Op::DequantizeLinear(_) | Op::QuantizedBinary(_) => op.clone(),
        Op::Concat(c) => Op::Concat(Concat { axis: place(c.axis)? }),
        Op::Split(s) => Op::Split(Split { axis: place(s.axis)?, ..s.clone() }),
        _ => return None,
    })
}

/// The transposition that leads from what memory has of a value with the channels last to the result of
/// `perm` in plain order.
pub(crate) fn transposition(perm: &[usize]) -> Option<Transpose> {
    let memory = axes(perm.len());
    let perm = perm.iter().map(|p| memory.iter().position(|a| a == p)).collect::<Option<Vec<_>>>()?;
    Some(Transpose { perm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_to_the_end() {
        assert_eq!(&channels_last(&[2, 3, 4, 5])[..], [2, 4, 5, 3]);
        assert_eq!(&channels_last(&[2, 3, 4])[..], [2, 4, 3]);
        assert_eq!(&padded(&[3, 1, 1], 4)[..], [1, 3, 1, 1]);
        assert!(either(&[2, 7, 1, 1]) && either(&[2, 1, 5, 5]) && !either(&[2, 2, 1, 2]));
    }

    #[test]
    fn a_transposition_to_channels_last_moves_nothing() {
        assert_eq!(transposition(&[0, 2, 3, 1]).unwrap().perm, [0, 1, 2, 3]);
        assert_eq!(transposition(&[0, 1, 2, 3]).unwrap().perm, [0, 3, 1, 2]);
    }
}
