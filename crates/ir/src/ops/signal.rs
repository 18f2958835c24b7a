use super::OpDef;
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use tensormill_tensor::DType;

op_attrs! {
    /// Discrete Fourier transform along one axis. Operands: x, whose last axis holds the real part or the
    /// real and the imaginary; length (integer scalar, optional: the axis' own): shorter signals are filled
    /// with zeros, longer ones cut; axis (integer scalar, optional: the one before the last).
    ///
    /// The result's last axis holds both parts; of a one-sided inverse, the real part.
    Dft {
        /// Whether to transform back.
        inverse: bool = false,
        /// Whether the spectrum of a real signal is only its first half, `length/2 + 1` values.
        onesided: bool = false,
    }
}

/// An integer scalar operand, as far as it is known.
fn scalar(cx: &InferCx<'_>, i: usize) -> Result<Option<Expr>, InferError> {
    let Some(t) = cx.opt_tensor(i)? else { return Ok(None) };
    let single = t.dims.as_deref().is_none_or(|d| d.iter().all(|d| d.known().is_none_or(|n| n == 1)));
    if !t.dtype.is_int() || !single {
        return refuse(format!("operand {i} must be an integer scalar"));
    }
    if let Some([e]) = cx.elements(i) {
        return Ok(Some(e.clone()));
    }
    Ok(match cx.ints(i).as_deref() {
        Some([n]) => Some(Expr::constant(*n)),
        _ => None,
    })
}

/// A length, which must not be negative.
fn length(e: Option<Expr>) -> Result<Option<Expr>, InferError> {
    match e.as_ref().and_then(Expr::as_const) {
        Some(n) if n < 0 => refuse(format!("a length of {n}")),
        _ => Ok(e),
    }
}

/// `n/2 + 1`
fn half(n: &Expr) -> Option<Expr> {
    n.floor_div(&Expr::constant(2))?.add(&Expr::constant(1))
}

fn parts(x: &TensorType) -> Result<(), InferError> {
    if !x.dtype.is_float() {
        return refuse(format!("is not defined for {}", x.dtype));
    }
    let last = x.dims.as_ref().and_then(|d| d.last()?.known());
    if last.is_some_and(|n| n != 1 && n != 2) {
        return refuse("the last axis must hold one part or two");
    }
    Ok(())
}

impl OpDef for Dft {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=3)?;
        let x = cx.tensor(0)?;
        parts(x)?;
        let (n, at) = (length(scalar(cx, 1)?)?, scalar(cx, 2)?);
        let Some(d) = &x.dims else {
            cx.output(TensorType::unranked(x.dtype));
            return Ok(());
        };
        if d.len() < 2 {
            return refuse("x must have rank 2 or more");
        }
        let mut dims = d.clone();
        let last = d.len() - 1;
        let at = if cx.opt(2).is_none() { Some(-2) } else { at.and_then(|a| a.as_const()) };
        match at {
            None => dims[..last].fill(Dim::Unknown),
            Some(a) => {
                let a = axis(a, d.len())?;
                if a == last {
                    return refuse("the last axis holds the parts of a number");
                }
                let n = match (cx.opt(1).is_some(), d[a].expr()) {
                    (true, _) => n,
                    (false, own) if self.inverse && self.onesided => {
                        own.and_then(|n| n.sub(&Expr::constant(1))?.mul(&Expr::constant(2)))
                    }
                    (false, own) => own,
                };
                let halved = self.onesided && !self.inverse;
                dims[a] = if halved { n.and_then(|n| half(&n)) } else { n }.into();
            }
        }
        dims[last] = Dim::Known(if self.onesided && self.inverse { 1 } else { 2 });
        cx.output(TensorType { dtype: x.dtype, dims: Some(dims) });
        Ok(())
    }
}

op_attrs! {
    /// Fourier transforms of equally spaced pieces. Operands: signal `[batch,length,1 or 2]`, step (integer
    /// scalar), window (`[n]`, optional: ones), length `n` of a piece (integer scalar, optional: the
    /// window's, or the signal's). Result: `[batch,pieces,bins,2]`.
    Stft {
        /// Whether there are only the first `n/2 + 1` bins.
        onesided: bool = true,
    }
}

impl OpDef for Stft {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=4)?;
        let x = cx.tensor(0)?;
        parts(x)?;
        if x.rank().is_some_and(|r| r != 3) {
            return refuse("a signal must have rank 3");
        }
        let step = scalar(cx, 1)?;
        if step.as_ref().and_then(Expr::as_const).is_some_and(|s| s <= 0) {
            return refuse("the step must be positive");
        }
        let window = cx.opt_tensor(2)?;
        if window.is_some_and(|w| w.dtype != x.dtype || w.rank().is_some_and(|r| r != 1)) {
            return refuse("a window must be a vector of the signal's dtype");
        }
        let given = length(scalar(cx, 3)?)?;
        let own = x.dims.as_ref().and_then(|d| d[1].expr());
        let n = match (cx.opt(3), window) {
            (Some(_), _) => given,
            (None, Some(w)) => w.dims.as_ref().and_then(|d| d[0].expr()),
            (None, None) => own.clone(),
        };
        let pieces = || own?.sub(n.as_ref()?)?.floor_div(step.as_ref()?)?.add(&Expr::constant(1));
        let pieces = Dim::from(pieces());
        let bins = if self.onesided { n.as_ref().and_then(half) } else { n.clone() };
        let batch = x.dims.as_ref().map_or(Dim::Unknown, |d| d[0].clone());
        cx.output(TensorType::new(x.dtype, [batch, pieces, bins.into(), Dim::Known(2)]));
        Ok(())
    }
}

word_enum! {
    /// The shape of a window.
    WindowKind {
        /// `1/2 - 1/2 cos`
        Hann = "hann",
        /// `25/46 - 21/46 cos`
        Hamming = "hamming",
        /// `0.42 - 0.5 cos + 0.08 cos 2`
        Blackman = "blackman",
    }
}

op_attrs! {
    /// A window function. Operand: its length, an integer scalar.
    WindowFunction {
        /// Its shape.
        kind: WindowKind = WindowKind::Hann,
        /// Whether its period is the length; otherwise one less, which makes it symmetric.
        periodic: bool = true,
        /// The result's dtype.
        to: DType = DType::F32,
    }
}

impl OpDef for WindowFunction {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        cx.tensor(0)?;
        let n = length(scalar(cx, 0)?)?;
        if !(self.to.is_float() || self.to.is_int()) {
            return refuse(format!("is not defined for {}", self.to));
        }
        cx.output(TensorType::new(self.to, [n.into()]));
        Ok(())
    }
}

op_attrs! {
    /// Triangular weights that turn a spectrum into bands equally wide on the mel scale. Operands: number of
    /// bands, length of the transform, sample rate (integer scalars), lowest and highest frequency (float
    /// scalars). Result: `[length/2 + 1, bands]`.
    MelWeights {
        /// The result's dtype.
        to: DType = DType::F32,
    }
}

impl OpDef for MelWeights {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(5..=5)?;
        let (bands, n) = (length(scalar(cx, 0)?)?, length(scalar(cx, 1)?)?);
        scalar(cx, 2)?;
        for i in 3..5 {
            if !cx.tensor(i)?.dtype.is_float() {
                return refuse(format!("operand {i} must be a float"));
            }
        }
        if !(self.to.is_float() || self.to.is_int()) {
            return refuse(format!("is not defined for {}", self.to));
        }
        cx.output(TensorType::new(self.to, [n.and_then(|n| half(&n)).into(), bands.into()]));
        Ok(())
    }
}
