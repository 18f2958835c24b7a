//! What follows the boxes that a detector finds.

use crate::{EvalError, data::i64s, error::refuse, eval::Operands};
use tensormill_ir::ops::NonMaxSuppression;
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, EvalError>;

/// A box by its lower and upper corner.
#[derive(Clone, Copy)]
struct Area {
    low: [f64; 2],
    high: [f64; 2],
}

impl Area {
    fn new(b: &[f64], center_point: bool) -> Area {
        if center_point {
            let (x, y, w, h) = (b[0], b[1], b[2] / 2.0, b[3] / 2.0);
            return Area { low: [y - h, x - w], high: [y + h, x + w] };
        }
        Area { low: [b[0].min(b[2]), b[1].min(b[3])], high: [b[0].max(b[2]), b[1].max(b[3])] }
    }

    fn size(&self) -> f64 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// The common part of both as a share of what they cover together.
    fn overlap(&self, other: &Area) -> f64 {
        let side = |i: usize| self.high[i].min(other.high[i]) - self.low[i].max(other.low[i]);
        if !(side(0) > 0.0 && side(1) > 0.0) {
            return 0.0;
        }
        let common = side(0) * side(1);
        common / (self.size() + other.size() - common)
    }
}

pub(crate) fn non_max_suppression(op: &NonMaxSuppression, x: &Operands<'_>) -> Result<Tensor> {
    let (boxes, scores) = (x.tensor(0)?, x.tensor(1)?);
    let ([batch, n, four], [score_batch, classes, scored]) = (dims3(boxes)?, dims3(scores)?);
    if four != 4 || score_batch != batch || scored != n {
        return refuse("boxes and scores do not fit");
    }
    let number = |i: usize| -> Result<Option<f64>> {
        match x.opt_tensor(i)? {
            Some(t) if t.len() == 1 => Ok(Some(t.to_f64_vec()?[0])),
            Some(t) if t.is_empty() => Ok(None),
            Some(_) => refuse(format!("operand {i} must be a scalar")),
            None => Ok(None),
        }
    };
    let limit = match x.opt_tensor(2)?.map(i64s).transpose()?.as_deref() {
        None | Some([]) => 0,
        Some([n]) => usize::try_from(*n).unwrap_or(0),
        Some(_) => return refuse("operand 2 must be a scalar"),
    };
    let overlap = number(3)?.unwrap_or(0.0);
    let least = number(4)?;
    let (boxes, scores) = (boxes.to_f64_vec()?, scores.to_f64_vec()?);
    let areas: Vec<Area> = boxes.chunks_exact(4).map(|b| Area::new(b, op.center_point)).collect();
    let mut found: Vec<i64> = vec![];
    for b in 0..batch {
        for c in 0..classes {
            x.limits.check_cancel()?;
            let own = &scores[(b * classes + c) * n..][..n];
            let areas = &areas[b * n..][..n];
            let mut order: Vec<usize> =
                (0..n).filter(|i| !own[*i].is_nan() && least.is_none_or(|l| own[*i] > l)).collect();
            // A stable sort: of equal scores the first box wins.
            order.sort_by(|i, j| own[*j].total_cmp(&own[*i]));
            let mut kept: Vec<usize> = vec![];
            for i in order {
                if kept.len() >= limit {
                    break;
                }
                if kept.iter().all(|k| areas[*k].overlap(&areas[i]) <= overlap) {
                    kept.push(i);
                }
            }
            found.extend(kept.iter().flat_map(|i| [b as i64, c as i64, *i as i64]));
        }
    }
    Ok(Tensor::from_vec([found.len() / 3, 3], found)?)
}

fn dims3(t: &Tensor) -> Result<[usize; 3]> {
    match **t.shape() {
        [a, b, c] => Ok([a, b, c]),
        _ => refuse("operands must have rank 3"),
    }
}
