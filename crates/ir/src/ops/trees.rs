use super::OpDef;
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use tensormill_tensor::DType;

word_enum! {
    /// How the votes for one target become its value.
    TreeAggregate {
        /// Their sum.
        Sum = "sum",
        /// Their sum divided by the number of trees.
        Average = "average",
        /// The least, or 0 of none.
        Min = "min",
        /// The greatest, or 0 of none.
        Max = "max",
    }
}

op_attrs! {
    /// Votes of decision trees. Operands:
    ///
    /// 0. x `[rows,features]`
    /// 1. roots, i64 `[trees]`
    /// 2. nodes, i64 `[nodes,3]`: feature, where to go when the comparison holds, where otherwise. What is
    ///    not negative is a node, `-1-i` is leaf `i`; roots are written the same way.
    /// 3. comparisons, u8 `[nodes]`: 0 `x <= split`, 1 `<`, 2 `>=`, 3 `>`, 4 `==`, 5 `!=`, 6 member of the
    ///    node's set; with 8 added, NaN goes where the comparison holds, else where it does not.
    /// 4. splits, float `[nodes]`
    /// 5. leaves, i64 `[leaves+1]`: where each one's votes begin, and the end of the last
    /// 6. targets of votes, i64 `[votes]`
    /// 7. values of votes, float `[votes]`
    /// 8. sets, i64 `[nodes+1]`: where each node's members begin, and the end of the last (optional)
    /// 9. members, float (optional)
    ///
    /// Result: `[rows,targets]` of the votes' dtype.
    TreeEnsemble {
        /// Number of targets.
        targets: usize = 1,
        /// How votes are put together.
        aggregate: TreeAggregate = TreeAggregate::Sum,
    }
}

impl OpDef for TreeEnsemble {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(8..=10)?;
        let x = cx.tensor(0)?;
        if !(x.dtype.is_float() || x.dtype.is_int()) || x.rank().is_some_and(|r| r != 2) {
            return refuse("x must be numbers of rank 2");
        }
        for (i, rank) in [(1, 1), (2, 2), (5, 1), (6, 1), (8, 1)] {
            if cx.opt(i).is_some() && cx.typed(i, DType::I64)?.rank().is_some_and(|r| r != rank) {
                return refuse(format!("operand {i} must have rank {rank}"));
            }
        }
        cx.typed(3, DType::U8)?;
        for i in [4, 7, 9] {
            if let Some(t) = cx.opt_tensor(i)?
                && (!t.dtype.is_float() || t.rank().is_some_and(|r| r != 1))
            {
                return refuse(format!("operand {i} must be a vector of floats"));
            }
        }
        if cx.opt(8).is_some() != cx.opt(9).is_some() {
            return refuse("sets and members come together");
        }
        let rows = x.dims.as_ref().map_or(Dim::Unknown, |d| d[0].clone());
        let dtype = cx.tensor(7)?.dtype;
        cx.output(TensorType::new(dtype, [rows, Dim::Known(self.targets)]));
        Ok(())
    }
}

op_attrs! {
    /// Every element replaced by what a table has for it. Operands: x, keys `[n]` of x's dtype, values `[n]`,
    /// the value of what is no key (one element). NaN is equal to NaN, and of equal keys the last counts.
    Lookup {}
}

impl OpDef for Lookup {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(4..=4)?;
        let x = cx.tensor(0)?;
        let (keys, values) = (cx.typed(1, x.dtype)?, cx.tensor(2)?);
        cx.typed(3, values.dtype)?;
        for t in [keys, values] {
            if t.rank().is_some_and(|r| r != 1) {
                return refuse("keys and values must be vectors");
            }
        }
        if x.dtype.is_complex() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        cx.output(TensorType { dtype: values.dtype, dims: x.dims.clone() });
        Ok(())
    }
}
