//! Inverted residuals: a depthwise convolution with the convolutions by one pixel before and after it as one
//! step, channels last.

use crate::conv::{Floats, depthwise_weights, packed_weights, sizes};
use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Native, Prep};
use crate::order::channels_last;
use std::borrow::Cow;
use tensormill_ir::ops::{Conv, PostOps};
use tensormill_kernels::channels_last::bands::{InvertedResidual, Product, inverted_residual, pays};
use tensormill_kernels::channels_last::conv::Algorithm;
use tensormill_kernels::conv::ConvShape;
use tensormill_kernels::epilogue::Epilogue;
use tensormill_tensor::{DType, Shape, Tensor};

/// One of the convolutions.
pub(crate) struct Part<'a> {
    pub op: &'a Conv,
    /// Names the node in the cache of packed weights.
    pub node: usize,
    /// Shapes of its first operand and its result.
    pub x: &'a [usize],
    pub out: &'a Shape,
    pub weights: &'a Tensor,
    /// Which operand of the whole step is its bias.
    pub bias: Option<usize>,
    /// Its epilogue, whose operands are those of the whole step.
    pub epilogue: PostOps,
}

impl<'a> Part<'a> {
    fn sizes(&self) -> Result<ConvShape, Cow<'static, str>> {
        let shape = sizes(self.op, self.x, self.weights.shape())?;
        if shape.output_len() != self.out.numel() || shape.weights_len() != self.weights.len() {
            return Err("sizes that the kernel computes otherwise".into());
        }
        Ok(shape)
    }

    fn floats(&self) -> Result<Floats<'a>, Cow<'static, str>> {
        if self.weights.dtype() != DType::F32 {
            return Err("weights are no f32".into());
        }
        Ok((self.weights, self.weights.bytes().as_chunks().0))
    }

    fn steps(&self, p: &Prep<'_>) -> Result<Steps, Cow<'static, str>> {
        let outs = [(DType::F32, channels_last(self.out))];
        let memory = Prep { outs: &outs, ..*p };
        let rank = self.out.rank();
        let by_pixel = Layout { rows: rank - 2, columns: rank - 1..rank, merged: true };
        Ok(Steps::plan(&memory, &self.epilogue, Some(&by_pixel))?.with_bias_per_column(self.bias))
    }
}

/// The step, whose first operand and result have their channels last.
pub(crate) fn block(p: &Prep<'_>, expand: Option<&Part<'_>>, middle: &Part<'_>, project: &Part<'_>) -> Built {
    let shape = middle.sizes()?;
    let wide = expand.map(Part::sizes).transpose()?;
    let narrow = project.sizes()?;
    if !pays(p.pool, &shape, wide.as_ref()) {
        return Err("three steps are faster".into());
    }
    let first = match (expand, &wide) {
        (Some(e), Some(s)) => {
            let weights = packed_weights(p, Some(e.node), s, e.floats()?, Algorithm::Direct)?;
            Some((weights, e.steps(p)?))
        }
        _ => None,
    };
    let inner = middle.steps(p)?;
    if !inner.by_column() || first.as_ref().is_some_and(|f| !f.1.by_column()) {
        return Err("an operand inside has more than a number per channel".into());
    }
    let each = depthwise_weights(p, Some(middle.node), &shape, middle.floats()?)?;
    let last = packed_weights(p, Some(project.node), &narrow, project.floats()?, Algorithm::Direct)?;
    let steps = project.steps(p)?;
    let flops = shape.flops() + narrow.flops() + wide.as_ref().map_or(0.0, ConvShape::flops);
    let channels = [expand.unwrap_or(middle).x[1], middle.x[1], project.out[1]];
    let reason = format!("{channels:?} channels, {:?} by {:?}", middle.x, middle.weights.shape());
    let mut native = Native::new("inverted-residual", move |c| {
        let inside = inner.hot(c)?;
        let before = first.as_ref().map(|f| f.1.hot(c)).transpose()?;
        steps.run(c, |out, epilogue, c| {
            let expand = first.as_ref().zip(before.as_deref());
            let block = InvertedResidual {
                expand: expand.map(|(f, s)| Product { weights: &f.0, epilogue: Epilogue::new(s) }),
                shape: &shape,
                weights: &each,
                epilogue: Epilogue::new(&inside),
                project: Product { weights: &last, epilogue },
            };
            Ok(inverted_residual(c.pool, &block, c.get::<f32>(0)?, out)?)
        })
    })?;
    native.flops = flops as u64;
    native.reason = reason;
    Ok(native)
}
