//! Conversion between element types, as ONNX's Cast defines it. The one place where it happens.

use crate::{
    Complex, DType, Element, RoundMode, Tensor, TensorError, bf16,
    convert::{Filler, blocks_f64, blocks_i64},
    f16,
};
use half::slice::HalfFloatSliceExt;

/// The choices that ONNX's Cast leaves to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CastOptions {
    /// To 8-bit floats: what is out of range becomes the nearest end, not NaN or infinity.
    pub saturate: bool,
    /// To [`DType::F8E8M0`].
    pub round_mode: RoundMode,
}

impl Default for CastOptions {
    fn default() -> Self {
        CastOptions { saturate: true, round_mode: RoundMode::Up }
    }
}

impl Tensor {
    /// The same values as another type, by the rules of ONNX's Cast.
    ///
    /// - Between integers the low bits are kept. To bool, all but zero is true (NaN too).
    /// - Floats to integers are truncated; NaN gives 0. ONNX leaves out-of-range values open: here `i32`
    ///   and `i64` saturate, and narrower and unsigned types keep the low bits of the truncated value, as
    ///   from a wider integer.
    /// - Floats are rounded once, to nearest even; see [`float8`](crate::float8) for the narrow ones.
    /// - To strings: integers and floats in plain decimal notation, as few digits as read back the same;
    ///   `INF`, `-INF`, `NaN`; bools as `1` and `0`.
    /// - From strings: decimal or scientific notation, the special names in any case, blanks around them
    ///   ignored; to integers, a fraction is truncated; to bool, `true` and `false` too.
    /// - Real to complex has no imaginary part. Complex to real or to string is refused.
    ///
    /// # Errors
    /// [`TensorError::Unsupported`] for complex numbers to others; [`TensorError::Parse`] for text that is no
    /// number, or an integer that the type cannot hold.
    pub fn cast(&self, to: DType, options: CastOptions) -> Result<Tensor, TensorError> {
        if to == self.dtype {
            return Ok(self.clone());
        }
        if self.dtype.is_complex() && !to.is_complex() {
            return Err(TensorError::Unsupported {
                what: "a cast to real numbers or strings",
                dtype: self.dtype,
            });
        }
        match (self.dtype, to) {
            (DType::Str, DType::C64 | DType::C128) => self.cast(DType::F64, options)?.cast(to, options),
            (DType::Str, _) => self.parse_strings(to, options),
            (_, DType::Str) => self.format_strings(),
            (_, DType::C128) => Tensor::from_vec(&self.shape, self.to_complex_vec()?),
            (_, DType::C64) => {
                let narrow = |c: Complex<f64>| Complex { re: c.re as f32, im: c.im as f32 };
                Tensor::from_vec(&self.shape, self.to_complex_vec()?.into_iter().map(narrow).collect())
            }
            _ => match self.cast_fast(to)? {
                Some(t) => Ok(t),
                None => self.cast_wide(to, options),
            },
        }
    }

    /// Any real type or bool to any other.
    fn cast_wide(&self, to: DType, options: CastOptions) -> Result<Tensor, TensorError> {
        let mut out = Filler::new(to, self.shape.clone(), options)?;
        if self.dtype == DType::U64 {
            self.to_slice::<u64>()?.chunks(crate::convert::BLOCK).for_each(|v| out.put_u64(v));
        } else if self.dtype.is_float() {
            blocks_f64(self, &mut |v| out.put_f64(v))?;
        } else {
            blocks_i64(self, &mut |v| out.put_i64(v))?;
        }
        Ok(out.finish())
    }

    /// The pairs that models use all the time, in one loop each that the compiler vectorizes.
    fn cast_fast(&self, to: DType) -> Result<Option<Tensor>, TensorError> {
        use DType::{BF16, Bool, F16, F32, F64, I32, I64, U8};
        let t = self;
        Ok(Some(match (self.dtype, to) {
            (F32, I64) => map(t, |x: f32| x as i64)?,
            (F32, I32) => map(t, |x: f32| x as i32)?,
            (F32, U8) => map(t, |x: f32| x as i32 as u8)?,
            (F32, F64) => map(t, |x: f32| f64::from(x))?,
            (F32, Bool) => map(t, |x: f32| u8::from(x != 0.0))?.reinterpret(Bool),
            (F32, F16) => {
                let mut out = vec![f16::ZERO; t.len()];
                out.convert_from_f32_slice(&t.to_slice()?);
                Tensor::from_vec(&t.shape, out)?
            }
            (F16, F32) => {
                let mut out = vec![0.0; t.len()];
                t.to_slice::<f16>()?.convert_to_f32_slice(&mut out);
                Tensor::from_vec(&t.shape, out)?
            }
            (F32, BF16) => map(t, bf16::from_f32)?,
            (BF16, F32) => map(t, bf16::to_f32)?,
            (F64, F32) => map(t, |x: f64| x as f32)?,
            (I64, F32) => map(t, |x: i64| x as f32)?,
            (I64, I32) => map(t, |x: i64| x as i32)?,
            (I64, Bool) => map(t, |x: i64| u8::from(x != 0))?.reinterpret(Bool),
            (I32, F32) => map(t, |x: i32| x as f32)?,
            (I32, I64) => map(t, |x: i32| i64::from(x))?,
            (I32, Bool) => map(t, |x: i32| u8::from(x != 0))?.reinterpret(Bool),
            (Bool, F32) => map(t, |x: u8| f32::from(u8::from(x != 0)))?,
            (Bool, I32) => map(t, |x: u8| i32::from(x != 0))?,
            (Bool, I64) => map(t, |x: u8| i64::from(x != 0))?,
            (U8, F32) => map(t, |x: u8| f32::from(x))?,
            (U8, I32) => map(t, |x: u8| i32::from(x))?,
            (U8, I64) => map(t, |x: u8| i64::from(x))?,
            _ => return Ok(None),
        }))
    }

    fn format_strings(&self) -> Result<Tensor, TensorError> {
        let mut out: Vec<String> = Vec::with_capacity(self.len());
        match self.dtype {
            DType::U64 => out.extend(self.to_slice::<u64>()?.iter().map(u64::to_string)),
            d if d.is_float() => {
                blocks_f64(self, &mut |v| v.iter().for_each(|&x| out.push(format_float(x, d))))?;
            }
            _ => blocks_i64(self, &mut |v| v.iter().for_each(|x| out.push(x.to_string())))?,
        }
        Tensor::from_strings(&self.shape, out)
    }

    fn parse_strings(&self, to: DType, options: CastOptions) -> Result<Tensor, TensorError> {
        let strings = self.strings()?;
        let mut out = Filler::new(to, self.shape.clone(), options)?;
        for chunk in strings.chunks(crate::convert::BLOCK) {
            let fail = |s: &String| TensorError::Parse { text: s.chars().take(64).collect(), dtype: to };
            if to.is_float() {
                let parse = |s: &String| parse_float(s, to).ok_or_else(|| fail(s));
                out.put_f64(&chunk.iter().map(parse).collect::<Result<Vec<f64>, _>>()?);
            } else {
                let parse = |s: &String| parse_int(s, to).ok_or_else(|| fail(s));
                out.put_i64(&chunk.iter().map(parse).collect::<Result<Vec<i64>, _>>()?);
            }
        }
        Ok(out.finish())
    }
}

fn map<A: Element, B: Element>(t: &Tensor, f: impl Fn(A) -> B) -> Result<Tensor, TensorError> {
    Tensor::from_vec(&t.shape, t.to_slice::<A>()?.iter().map(|&x| f(x)).collect())
}

fn format_float(x: f64, dtype: DType) -> String {
    match x {
        x if x.is_nan() => "NaN".to_string(),
        f64::INFINITY => "INF".to_string(),
        f64::NEG_INFINITY => "-INF".to_string(),
        _ if dtype == DType::F64 => x.to_string(),
        // As an f64 the same value would take more digits to read back.
        _ => (x as f32).to_string(),
    }
}

fn parse_float(s: &str, to: DType) -> Option<f64> {
    let s = s.trim();
    // Straight to f32 where that is the target: by way of f64 it would be rounded twice.
    if to == DType::F32 { s.parse::<f32>().ok().map(f64::from) } else { s.parse().ok() }
}

/// An integer in the range of `to`, in two's complement for `u64`; for bool, 0 or 1.
fn parse_int(s: &str, to: DType) -> Option<i64> {
    let s = s.trim();
    if to == DType::Bool {
        return match s {
            _ if s.eq_ignore_ascii_case("true") => Some(1),
            _ if s.eq_ignore_ascii_case("false") => Some(0),
            _ => s.parse::<f64>().ok().map(|x| i64::from(x != 0.0)),
        };
    }
    let value = match s.parse::<i128>() {
        Ok(v) => v,
        // NaN would become 0 below.
        Err(_) => s.parse::<f64>().ok().filter(|x| x.is_finite())? as i128,
    };
    let bits = to.bits();
    let (least, most) = if to.is_signed_int() {
        (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    };
    (least..=most).contains(&value).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cast(t: &Tensor, to: DType) -> Tensor {
        t.cast(to, CastOptions::default()).unwrap()
    }

    fn real() -> impl Iterator<Item = DType> {
        DType::ALL.iter().copied().filter(|d| !d.is_complex() && *d != DType::Str)
    }

    fn strings(s: &[&str]) -> Tensor {
        Tensor::from_strings([s.len()], s.iter().map(ToString::to_string).collect()).unwrap()
    }

    #[test]
    fn small_integers_survive_every_pair() {
        for from in real() {
            for to in real() {
                let t = Tensor::from_i64s(from, [2, 3], [1, 0, 1, 1, 0, 1]).unwrap();
                let zero = if from == DType::F8E8M0 || to == DType::F8E8M0 { 2f64.powi(-127) } else { 0.0 };
                let expected = match (from, to) {
                    (DType::F8E8M0, DType::Bool) => vec![1.0; 6],
                    (DType::F8E8M0, _) if to.is_int() => vec![1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
                    // Below the least value of these.
                    (DType::F8E8M0, _) if to.bits() <= 16 && !matches!(to, DType::BF16 | DType::F8E8M0) => {
                        vec![1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
                    }
                    _ => vec![1.0, zero, 1.0, 1.0, zero, 1.0],
                };
                assert_eq!(cast(&t, to).to_f64_vec().unwrap(), expected, "{from} to {to}");
            }
        }
    }

    #[test]
    fn packed_elements_cross_blocks() {
        let values = || (0..1001).map(|i| i * 7 % 16 - 8);
        let t = Tensor::from_i64s(DType::I4, [1001], values()).unwrap();
        assert_eq!(t.bytes().len(), 501);
        assert_eq!(t.to_i64_vec().unwrap(), values().collect::<Vec<_>>());
        let codes = cast(&cast(&t, DType::F4E2M1), DType::F32).to_f32_vec().unwrap();
        assert_eq!(codes.len(), 1001);
        assert_eq!(codes[..3], [-6.0, -1.0, 6.0]);
    }

    #[test]
    fn out_of_range_floats() {
        let t = Tensor::from_vec(
            [7],
            vec![-9.7f32, 16.2, 300.0, 1e20, f32::INFINITY, f32::NEG_INFINITY, f32::NAN],
        )
        .unwrap();
        let ints = |to| cast(&t, to).to_i64_vec().unwrap();
        assert_eq!(ints(DType::I64), [-9, 16, 300, i64::MAX, i64::MAX, i64::MIN, 0]);
        assert_eq!(ints(DType::I32)[3..], [i64::from(i32::MAX), i64::from(i32::MAX), i64::from(i32::MIN), 0]);
        assert_eq!(ints(DType::U8)[..3], [247, 16, 44]);
        assert_eq!(ints(DType::I4)[..3], [7, 0, -4]);
        assert_eq!(ints(DType::U2)[..3], [3, 0, 0]);
        assert_eq!(ints(DType::U32)[0], (1 << 32) - 9);
        assert_eq!(ints(DType::Bool), [1; 7]);
    }

    #[test]
    fn integers_keep_low_bits() {
        let t = Tensor::from_vec([3], vec![200i16, -1, 9]).unwrap();
        assert_eq!(cast(&t, DType::I8).to_i64_vec().unwrap(), [-56, -1, 9]);
        assert_eq!(cast(&t, DType::I4).to_i64_vec().unwrap(), [-8, -1, -7]);
        assert_eq!(&*cast(&t, DType::U64).to_slice::<u64>().unwrap(), [200, u64::MAX, 9]);
        assert!(cast(&t, DType::U64).to_i64_vec().is_err());
        let big = Tensor::scalar(u64::MAX);
        assert_eq!(cast(&big, DType::F32).to_f32_vec().unwrap(), [2f32.powi(64)]);
        assert_eq!(cast(&big, DType::I16).to_i64_vec().unwrap(), [-1]);
    }

    #[test]
    fn text_both_ways() {
        let t = Tensor::from_vec(
            [6],
            vec![0.47892547f32, -0.0, 314.159, f32::NAN, f32::INFINITY, f32::NEG_INFINITY],
        )
        .unwrap();
        assert_eq!(
            cast(&t, DType::Str).strings().unwrap(),
            ["0.47892547", "-0", "314.159", "NaN", "INF", "-INF"]
        );
        let half = Tensor::from_f64s(DType::F64, [1], [0.1]).unwrap();
        assert_eq!(cast(&half, DType::Str).strings().unwrap(), ["0.1"]);
        assert_eq!(
            cast(&Tensor::from_bools([2], vec![true, false]).unwrap(), DType::Str).strings().unwrap(),
            ["1", "0"]
        );
        assert_eq!(cast(&Tensor::scalar(u64::MAX), DType::Str).strings().unwrap(), ["18446744073709551615"]);

        let s = strings(&["3.25", "1e-5", "1E8", " +INF", "inf", "-Inf", "nan"]);
        let floats = cast(&s, DType::F32).to_f32_vec().unwrap();
        assert_eq!(floats[..6], [3.25, 1e-5, 1e8, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY]);
        assert!(floats[6].is_nan());
        assert_eq!(
            cast(&strings(&["100.5", "-7", "1e3"]), DType::I32).to_i64_vec().unwrap(),
            [100, -7, 1000]
        );
        assert_eq!(
            &*cast(&strings(&["18446744073709551615"]), DType::U64).to_slice::<u64>().unwrap(),
            [u64::MAX]
        );
        assert_eq!(
            cast(&strings(&["True", "0", "2"]), DType::Bool).to_bool_vec().unwrap(),
            [true, false, true]
        );
        for (text, to) in [
            ("Hello", DType::F32),
            ("300", DType::U8),
            ("-1", DType::U64),
            ("nan", DType::I8),
            ("", DType::F64),
        ] {
            assert!(
                matches!(strings(&[text]).cast(to, CastOptions::default()), Err(TensorError::Parse { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn complex_keeps_to_itself() {
        let t = cast(&Tensor::from_vec([2], vec![1i32, -2]).unwrap(), DType::C64);
        assert_eq!(
            cast(&t, DType::C128).to_slice::<Complex<f64>>().unwrap()[1],
            Complex { re: -2.0, im: 0.0 }
        );
        assert!(t.cast(DType::F32, CastOptions::default()).is_err());
        assert!(t.to_f64_vec().is_err() && t.to_i64_vec().is_err() && t.to_bool_vec().is_err());
    }

    #[test]
    fn lengths_of_iterators_are_checked() {
        for n in [0usize, 3, 256, 257, 512] {
            let make =
                |k: usize| Tensor::from_f64s(DType::F16, [n], (0..k).map(|i| i as f64).filter(|_| true));
            assert_eq!(make(n).unwrap().to_f64_vec().unwrap(), (0..n).map(|i| i as f64).collect::<Vec<_>>());
            assert!(make(n + 1).is_err());
            assert!(n == 0 || make(n - 1).is_err());
        }
        // Refused without an attempt to allocate.
        assert!(Tensor::from_i64s(DType::I64, [1 << 60], [1, 2]).is_err());
    }

    proptest! {
        // The twin of every fast pair is the way through the wide types.
        #[test]
        fn fast_and_wide_agree(bits in prop::collection::vec(any::<u64>(), 0..600), small: Vec<i16>) {
            let ints: Vec<i64> =
                bits.iter().map(|&b| b as i64).chain(small.iter().map(|&s| i64::from(s))).collect();
            let floats: Vec<f64> = bits.iter().map(|&b| f64::from(f32::from_bits(b as u32)))
                .chain(small.iter().map(|&s| f64::from(s) / 8.0)).collect();
            for from in real() {
                let t = if from.is_float() {
                    Tensor::from_f64s(from, [floats.len()], floats.iter().copied()).unwrap()
                } else {
                    Tensor::from_i64s(from, [ints.len()], ints.iter().copied()).unwrap()
                };
                for to in real() {
                    let Some(fast) = t.cast_fast(to).unwrap() else { continue };
                    let wide = t.cast_wide(to, CastOptions::default()).unwrap();
                    if to.is_float() {
                        // NaN payloads may differ.
                        let bits = |x: f64| if x.is_nan() { None } else { Some(x.to_bits()) };
                        let key =
                            |t: &Tensor| t.to_f64_vec().unwrap().into_iter().map(bits).collect::<Vec<_>>();
                        prop_assert_eq!(key(&fast), key(&wide), "{} to {}", from, to);
                    } else {
                        prop_assert!(fast.same_bits(&wide), "{} to {}", from, to);
                    }
                }
            }
        }

        #[test]
        fn wide_integers_round_once(x: i64, shift in 0u32..12) {
            let x = x >> shift;
            // bf16 has 8 significant bits: round by hand on the integer.
            let m = x.unsigned_abs();
            let drop = (64 - m.leading_zeros()).saturating_sub(8);
            let (kept, rest) = (u128::from(m) >> drop, u128::from(m) & ((1 << drop) - 1));
            let up = rest * 2 > 1 << drop || (rest * 2 == 1 << drop && drop > 0 && kept & 1 == 1);
            let expected = ((kept + u128::from(up)) << drop) as f64 * x.signum() as f64;
            let got = cast(&Tensor::scalar(x), DType::BF16).to_f64_vec().unwrap()[0];
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn text_reads_back(x: f64, y: f32, i: i64) {
            let back = |t: Tensor| { let s = cast(&t, DType::Str); cast(&s, t.dtype()).same_bits(&t) };
            prop_assert!(x.is_nan() || back(Tensor::scalar(x)));
            prop_assert!(y.is_nan() || back(Tensor::scalar(y)));
            prop_assert!(back(Tensor::scalar(i)));
        }
    }
}
