use tensormill_tensor::{CastOptions, Complex, DType, Tensor, Value};

/// What differs between a result and the expected one, beyond `|got - want| <= atol + rtol * |want|`
/// (NaN equals NaN, an infinity equals itself); `None` when nothing does.
pub fn difference(got: &Value, want: &Value, rtol: f64, atol: f64) -> Option<String> {
    match (got, want) {
        (Value::Tensor(a), Value::Tensor(b)) => tensors(a, b, rtol, atol),
        (Value::Sequence(a), Value::Sequence(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| Some(format!("element {i}: {}", difference(a, b, rtol, atol)?))),
        (Value::Sequence(a), Value::Sequence(b)) => Some(format!("{} elements, not {}", a.len(), b.len())),
        (Value::Optional(None), Value::Optional(None)) => None,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => difference(a, b, rtol, atol),
        _ => Some(format!("a {}, not a {}", got.kind(), want.kind())),
    }
}

fn tensors(a: &Tensor, b: &Tensor, rtol: f64, atol: f64) -> Option<String> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Some(format!("{a:?}, not {b:?}"));
    }
    if a.dtype() == DType::Str {
        let (x, y) = (a.strings().ok()?, b.strings().ok()?);
        let i = (0..x.len()).find(|&i| x[i] != y[i])?;
        return Some(format!("\"{}\" at {i}, not \"{}\"", x[i].escape_debug(), y[i].escape_debug()));
    }
    let (x, y) = (numbers(a)?, numbers(b)?);
    let off = |i: &usize| {
        let (x, y) = (x[*i], y[*i]);
        let same = x == y || (x.is_nan() && y.is_nan());
        // A NaN against a number compares false, and so is off.
        let close = y.is_finite() && (x - y).abs() <= atol + rtol * y.abs();
        !(same || close)
    };
    let wrong: Vec<usize> = (0..x.len()).filter(off).collect();
    let i = *wrong.first()?;
    Some(format!("{} at {i}, not {} ({} of {} elements are off)", x[i], y[i], wrong.len(), x.len()))
}

/// Real numbers as f64; complex ones as pairs.
fn numbers(t: &Tensor) -> Option<Vec<f64>> {
    if t.dtype().is_complex() {
        let t = t.cast(DType::C128, CastOptions::default()).ok()?;
        return Some(t.to_slice::<Complex<f64>>().ok()?.iter().flat_map(|c| [c.re, c.im]).collect());
    }
    t.to_f64_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_infinity_equal_only_themselves() {
        let t = |v: f32| Value::Tensor(Tensor::scalar(v));
        let differ = |a, b| difference(&t(a), &t(b), 1e-3, 1e-3).is_some();
        assert!(!differ(f32::NAN, f32::NAN) && !differ(f32::INFINITY, f32::INFINITY) && !differ(1.0, 1.0005));
        assert!(
            differ(f32::NAN, 1.0) && differ(1.0, f32::NAN) && differ(1.0, f32::INFINITY) && differ(1.0, 1.1)
        );
        assert!(differ(f32::INFINITY, f32::NEG_INFINITY));
    }
}
