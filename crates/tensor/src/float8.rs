//! The floats of 8 and 4 bits, as codes in a byte.

use crate::DType;

/// A signed float of at most 8 bits. [`DType::F8E8M0`], which is a bare exponent, has
/// [`encode_e8m0`] and [`decode_e8m0`] instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NarrowFloat {
    /// [`DType::F4E2M1`], in the low four bits of the byte.
    F4E2M1,
    /// [`DType::F8E4M3FN`].
    F8E4M3FN,
    /// [`DType::F8E4M3FNUZ`].
    F8E4M3FNUZ,
    /// [`DType::F8E5M2`].
    F8E5M2,
    /// [`DType::F8E5M2FNUZ`].
    F8E5M2FNUZ,
}

/// How a value between two powers of two becomes a [`DType::F8E8M0`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RoundMode {
    /// To the greater power: what ONNX does unless told otherwise.
    #[default]
    Up,
    /// To the smaller power.
    Down,
    /// To the nearer power, the greater one from the middle.
    Nearest,
}

/// What tells the formats apart.
struct Layout {
    mantissa: u32,
    bias: i32,
    sign: u8,
    /// Code of the greatest finite value.
    max: u8,
    /// Code of infinity, in the one format that has it.
    infinity: Option<u8>,
    /// Code of NaN without a sign; `None` where there is no NaN.
    nan: Option<u8>,
    /// The code of -0 means NaN, and neither zero nor NaN has a sign.
    unsigned_zero: bool,
}

impl NarrowFloat {
    /// Every format.
    pub const ALL: [NarrowFloat; 5] = [
        NarrowFloat::F4E2M1,
        NarrowFloat::F8E4M3FN,
        NarrowFloat::F8E4M3FNUZ,
        NarrowFloat::F8E5M2,
        NarrowFloat::F8E5M2FNUZ,
    ];

    /// The format of `dtype`, if it is one of these.
    pub const fn of(dtype: DType) -> Option<NarrowFloat> {
        Some(match dtype {
            DType::F4E2M1 => NarrowFloat::F4E2M1,
            DType::F8E4M3FN => NarrowFloat::F8E4M3FN,
            DType::F8E4M3FNUZ => NarrowFloat::F8E4M3FNUZ,
            DType::F8E5M2 => NarrowFloat::F8E5M2,
            DType::F8E5M2FNUZ => NarrowFloat::F8E5M2FNUZ,
            _ => return None,
        })
    }

    /// The element type of this format.
    pub const fn dtype(self) -> DType {
        match self {
            NarrowFloat::F4E2M1 => DType::F4E2M1,
            NarrowFloat::F8E4M3FN => DType::F8E4M3FN,
            NarrowFloat::F8E4M3FNUZ => DType::F8E4M3FNUZ,
            NarrowFloat::F8E5M2 => DType::F8E5M2,
            NarrowFloat::F8E5M2FNUZ => DType::F8E5M2FNUZ,
        }
    }

    const fn layout(self) -> Layout {
        let base = Layout {
            mantissa: 3,
            bias: 7,
            sign: 0x80,
            max: 0x7e,
            infinity: None,
            nan: Some(0x7f),
            unsigned_zero: false,
        };
        match self {
            NarrowFloat::F8E4M3FN => base,
            NarrowFloat::F8E4M3FNUZ => {
                Layout { bias: 8, max: 0x7f, nan: Some(0x80), unsigned_zero: true, ..base }
            }
            NarrowFloat::F8E5M2 => {
                Layout { mantissa: 2, bias: 15, max: 0x7b, infinity: Some(0x7c), nan: Some(0x7e), ..base }
            }
            NarrowFloat::F8E5M2FNUZ => {
                Layout { mantissa: 2, bias: 16, max: 0x7f, nan: Some(0x80), unsigned_zero: true, ..base }
            }
            NarrowFloat::F4E2M1 => Layout { mantissa: 1, bias: 1, sign: 8, max: 7, nan: None, ..base },
        }
    }

    /// The greatest finite value.
    pub const fn max(self) -> f32 {
        self.decode(self.layout().max)
    }

    /// The code nearest to `x`, ties to the even one.
    ///
    /// What rounds past the greatest finite value, infinity included, becomes that value when
    /// `saturate`; else infinity where the format has it, else NaN. `f4e2m1`, having neither, always
    /// saturates, and makes zero (the negative one) of NaN.
    pub const fn encode(self, x: f32, saturate: bool) -> u8 {
        let f = self.layout();
        let bits = x.to_bits();
        let sign = if bits >> 31 == 1 { f.sign } else { 0 };
        let magnitude = bits & 0x7fff_ffff;
        if magnitude > 0x7f80_0000 {
            return match f.nan {
                Some(nan) if f.unsigned_zero => nan,
                Some(nan) => nan | sign,
                None => f.sign,
            };
        }
        let exponent = (magnitude >> 23) as i32 - 127;
        // The f32's own subnormals are far below half of any format's least value: that they get an
        // implicit bit here does not matter.
        let significand = (magnitude & 0x007f_ffff) | 0x0080_0000;
        let least = 1 - f.bias;
        let (above, below) =
            if exponent >= least { ((exponent - least) as u32, 0) } else { (0, (least - exponent) as u32) };
        let shift = 23 - f.mantissa + below;
        let rounded = if shift > 24 {
            0
        } else {
            let kept = significand >> shift;
            let rest = significand & ((1 << shift) - 1);
            let half = 1 << (shift - 1);
            if rest > half || (rest == half && kept & 1 == 1) { kept + 1 } else { kept }
        };
        // A carry out of the significand runs into the exponent field, which is just what it should do.
        let code = (above << f.mantissa) + rounded;
        if code > f.max as u32 {
            return match (f.infinity, f.nan) {
                (Some(infinity), _) if !saturate => infinity | sign,
                (None, Some(nan)) if !saturate => {
                    if f.unsigned_zero {
                        nan
                    } else {
                        nan | sign
                    }
                }
                _ => f.max | sign,
            };
        }
        if code == 0 && f.unsigned_zero { 0 } else { code as u8 | sign }
    }

    /// The value of a code; bits past those of the format are ignored.
    pub const fn decode(self, code: u8) -> f32 {
        let f = self.layout();
        let negative = code & f.sign != 0;
        let magnitude = code & (f.sign - 1);
        let sign = if negative { 1u32 << 31 } else { 0 };
        if f.unsigned_zero && magnitude == 0 {
            return if negative { f32::NAN } else { 0.0 };
        }
        if magnitude > f.max && !f.unsigned_zero {
            let infinite = matches!(f.infinity, Some(i) if i == magnitude);
            return f32::from_bits(sign | if infinite { 0x7f80_0000 } else { 0x7fc0_0000 });
        }
        let field = (magnitude >> f.mantissa) as i32;
        let fraction = (magnitude & ((1 << f.mantissa) - 1)) as u32;
        let value = if field == 0 {
            // Exact: a small integer times a power of two that is a normal f32.
            fraction as f32 * f32::from_bits(((1 - f.bias - f.mantissa as i32 + 127) as u32) << 23)
        } else {
            f32::from_bits(((field - f.bias + 127) as u32) << 23 | fraction << (23 - f.mantissa))
        };
        f32::from_bits(value.to_bits() | sign)
    }

    /// The values of all 256 codes.
    pub const fn table(self) -> &'static [f32; 256] {
        const fn build(f: NarrowFloat) -> [f32; 256] {
            let mut t = [0.0; 256];
            let mut i = 0;
            while i < 256 {
                t[i] = f.decode(i as u8);
                i += 1;
            }
            t
        }
        static TABLES: [[f32; 256]; 5] = [
            build(NarrowFloat::ALL[0]),
            build(NarrowFloat::ALL[1]),
            build(NarrowFloat::ALL[2]),
            build(NarrowFloat::ALL[3]),
            build(NarrowFloat::ALL[4]),
        ];
        &TABLES[self as usize]
    }
}

/// The power of two for the magnitude of `x`, as a [`DType::F8E8M0`] code: the exponent plus 127.
///
/// Powers outside 2^-127..=2^127, and zero, become the nearer end when `saturate`, else NaN (255).
/// ONNX leaves negative values open; their sign is dropped.
pub const fn encode_e8m0(x: f32, mode: RoundMode, saturate: bool) -> u8 {
    let magnitude = x.to_bits() & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return 0xff;
    }
    if magnitude == 0 {
        return if saturate { 0 } else { 0xff };
    }
    // Subnormals are normalized, so that one comparison decides the rounding everywhere.
    let (field, fraction) = if magnitude >> 23 == 0 {
        let up = magnitude.leading_zeros() - 8;
        (1 - up as i32, (magnitude << up) & 0x007f_ffff)
    } else {
        ((magnitude >> 23) as i32, magnitude & 0x007f_ffff)
    };
    let up = match mode {
        RoundMode::Up => fraction > 0,
        RoundMode::Down => false,
        RoundMode::Nearest => fraction >= 0x0040_0000,
    };
    match field + up as i32 {
        code @ 0..=254 => code as u8,
        _ if !saturate => 0xff,
        code => {
            if code < 0 {
                0
            } else {
                254
            }
        }
    }
}

/// The value of a [`DType::F8E8M0`] code.
pub const fn decode_e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// `x` as an f32 rounded to odd: when inexact, the neighbour whose last bit is set. Rounding that once
/// more, to a format of at most 22 significant bits, gives what rounding `x` itself would have.
pub(crate) fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || x.is_nan() || x.is_infinite() {
        return nearest;
    }
    let bits = nearest.to_bits();
    if bits & 1 == 1 {
        return nearest;
    }
    // Inexact and even: the odd neighbour lies towards x. Infinity, being even, steps back to the
    // greatest finite value, and zero out to the least of its sign.
    let away = f64::from(nearest).abs() < x.abs();
    f32::from_bits(if away { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_code_survives() {
        for f in NarrowFloat::ALL {
            let codes = if f == NarrowFloat::F4E2M1 { 0..=15 } else { 0..=255u8 };
            for code in codes {
                let x = f.decode(code);
                assert_eq!(x.to_bits(), f.table()[code as usize].to_bits());
                let back = [f.encode(x, true), f.encode(x, false)];
                if x.is_nan() {
                    assert!(back.iter().all(|&b| f.decode(b).is_nan()), "{f:?} {code:#x}");
                } else if x.is_infinite() {
                    assert_eq!(back, [f.encode(f.max().copysign(x), true), code], "{f:?} {code:#x}");
                } else {
                    assert_eq!(back, [code; 2], "{f:?} {code:#x} {x}");
                }
            }
        }
        for code in 0..=255 {
            for mode in [RoundMode::Up, RoundMode::Down, RoundMode::Nearest] {
                assert_eq!(encode_e8m0(decode_e8m0(code), mode, false), code);
                assert_eq!(encode_e8m0(decode_e8m0(code), mode, true), code);
            }
        }
    }

    #[test]
    fn known_values() {
        use NarrowFloat::*;
        assert_eq!(NarrowFloat::ALL.map(NarrowFloat::max), [6.0, 448.0, 240.0, 57344.0, 57344.0]);
        let f4: Vec<f32> = (0..8).map(|c| F4E2M1.decode(c)).collect();
        assert_eq!(f4, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(F8E4M3FN.decode(1), 2f32.powi(-9));
        assert_eq!(F8E4M3FNUZ.decode(1), 2f32.powi(-10));
        assert_eq!(F8E5M2.decode(1), 2f32.powi(-16));
        assert_eq!(F8E5M2FNUZ.decode(1), 2f32.powi(-17));
        assert_eq!(
            [decode_e8m0(0), decode_e8m0(127), decode_e8m0(254)],
            [2f32.powi(-127), 1.0, 2f32.powi(127)]
        );
    }

    // The rows of ONNX's two tables; columns E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ.
    #[test]
    fn specials_follow_the_tables() {
        let formats =
            [NarrowFloat::F8E4M3FN, NarrowFloat::F8E4M3FNUZ, NarrowFloat::F8E5M2, NarrowFloat::F8E5M2FNUZ];
        let rows: [(f32, [u8; 4], [u8; 4]); 10] = [
            (0.0, [0, 0, 0, 0], [0, 0, 0, 0]),
            (-0.0, [0x80, 0, 0x80, 0], [0x80, 0, 0x80, 0]),
            (f32::NAN, [0x7f, 0x80, 0x7e, 0x80], [0x7f, 0x80, 0x7e, 0x80]),
            (-f32::NAN, [0xff, 0x80, 0xfe, 0x80], [0xff, 0x80, 0xfe, 0x80]),
            (f32::INFINITY, [0x7e, 0x7f, 0x7b, 0x7f], [0x7f, 0x80, 0x7c, 0x80]),
            (-f32::INFINITY, [0xfe, 0xff, 0xfb, 0xff], [0xff, 0x80, 0xfc, 0x80]),
            (1e9, [0x7e, 0x7f, 0x7b, 0x7f], [0x7f, 0x80, 0x7c, 0x80]),
            (-1e9, [0xfe, 0xff, 0xfb, 0xff], [0xff, 0x80, 0xfc, 0x80]),
            // 464 is the tie between 448 and the 480 that E4M3FN lacks: to the even 448.
            (464.0, [0x7e, 0x7f, 0x5f, 0x63], [0x7e, 0x80, 0x5f, 0x63]),
            (248.0, [0x78, 0x7f, 0x5c, 0x60], [0x78, 0x80, 0x5c, 0x60]),
        ];
        for (x, saturated, plain) in rows {
            assert_eq!(formats.map(|f| f.encode(x, true)), saturated, "{x} saturated");
            assert_eq!(formats.map(|f| f.encode(x, false)), plain, "{x}");
        }
        let f4 = |x| NarrowFloat::F4E2M1.encode(x, false);
        assert_eq!(
            [f4(f32::INFINITY), f4(-1e9), f4(5.0), f4(-5.0), f4(0.25), f4(2.5), f4(f32::NAN)],
            [7, 15, 6, 14, 0, 4, 8]
        );
    }

    #[test]
    fn powers_of_two_follow_the_table() {
        use RoundMode::*;
        let max = f32::MAX;
        for (x, mode, saturated, plain) in [
            (0.0, Up, 0, 255),
            (f32::INFINITY, Up, 254, 255),
            (max, Up, 254, 255),
            (max, Down, 254, 254),
            (max, Nearest, 254, 255),
            (f32::NAN, Up, 255, 255),
            (1.5, Nearest, 128, 128),
            (1.25, Nearest, 127, 127),
            (1.25, Up, 128, 128),
            (1.75, Down, 127, 127),
            (f32::from_bits(1), Up, 0, 255),
            (2f32.powi(-127) * 1.25, Nearest, 0, 0),
            (2f32.powi(-127) * 1.25, Up, 1, 1),
            (2f32.powi(-128) * 1.5, Nearest, 0, 0),
            (2f32.powi(-128) * 1.25, Nearest, 0, 255),
        ] {
            assert_eq!(
                (encode_e8m0(x, mode, true), encode_e8m0(x, mode, false)),
                (saturated, plain),
                "{x} {mode:?}"
            );
        }
    }

    /// The nearest code by looking at all of them.
    fn nearest(f: NarrowFloat, x: f64) -> u8 {
        let max = f.layout().max;
        // Far beyond the range all distances would round to the same.
        let x = x.clamp(-1e6, 1e6);
        let mut best = 0;
        for code in 0..=max {
            let (d, b) =
                ((f64::from(f.decode(code)) - x.abs()).abs(), (f64::from(f.decode(best)) - x.abs()).abs());
            if d < b || (d == b && code & 1 == 0) {
                best = code;
            }
        }
        if x.is_sign_negative() && !(best == 0 && f.layout().unsigned_zero) {
            best | f.layout().sign
        } else {
            best
        }
    }

    proptest! {
        #[test]
        fn encoding_is_nearest(bits: u32, scale in -20f32..20.0) {
            for x in [f32::from_bits(bits), scale, scale.powi(3), (scale * 16.0).round() / 32.0, 2f32.powf(scale)] {
                if x.is_nan() { continue; }
                for f in NarrowFloat::ALL {
                    prop_assert_eq!(f.encode(x, true), nearest(f, f64::from(x)), "{:?} {}", f, x);
                }
            }
        }

        #[test]
        fn doubles_round_once(bits: u64, code in 0u8..0x7b, nudge in -3i64..=3) {
            for f in NarrowFloat::ALL {
                let code = code.min(f.layout().max - 1);
                // The middle between two neighbours, and a hair beside it that an f32 cannot hold.
                let middle = (f64::from(f.decode(code)) + f64::from(f.decode(code + 1))) / 2.0;
                for x in [f64::from_bits((middle.to_bits() as i64 + nudge) as u64), f64::from_bits(bits)] {
                    if x.is_nan() { continue; }
                    prop_assert_eq!(f.encode(round_to_odd(x), true), nearest(f, x), "{:?} {:e}", f, x);
                }
            }
        }
    }
}
