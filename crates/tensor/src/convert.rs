//! Elements of any type in and out, by way of a wide type: i64, u64 or f64.
//!
//! Every real type fits one of the three without loss, so that a loader and a storer per type serve all
//! pairs. Elements go through in blocks; no copy of the whole tensor is made.

use crate::{
    CastOptions, Complex, DType, Element, Shape, Tensor, TensorError, bf16, f16,
    float8::{NarrowFloat, decode_e8m0, encode_e8m0, round_to_odd},
    narrow,
    tensor::length,
};

/// Elements per block: a multiple of four, so that packed elements never straddle two blocks.
pub(crate) const BLOCK: usize = 256;

fn unsupported(what: &'static str, dtype: DType) -> TensorError {
    TensorError::Unsupported { what, dtype }
}

fn native<T: Element, W: Copy + Default>(
    t: &Tensor,
    widen: impl Fn(T) -> W,
    sink: &mut dyn FnMut(&[W]),
) -> Result<(), TensorError> {
    let mut block = [W::default(); BLOCK];
    for chunk in t.to_slice::<T>()?.chunks(BLOCK) {
        for (o, &v) in block.iter_mut().zip(chunk) {
            *o = widen(v);
        }
        sink(&block[..chunk.len()]);
    }
    Ok(())
}

fn packed<W: Copy + Default>(t: &Tensor, widen: impl Fn(u8) -> W, sink: &mut dyn FnMut(&[W])) {
    let mut block = [W::default(); BLOCK];
    let mut codes = [0u8; BLOCK];
    for start in (0..t.len()).step_by(BLOCK) {
        let n = BLOCK.min(t.len() - start);
        narrow::unpack(t.dtype().bits(), t.bytes(), start, &mut codes[..n]);
        for (o, &v) in block.iter_mut().zip(&codes[..n]) {
            *o = widen(v);
        }
        sink(&block[..n]);
    }
}

/// Hands over the elements of a bool or integer tensor, in order; those of `u64` wrap.
pub(crate) fn blocks_i64(t: &Tensor, sink: &mut dyn FnMut(&[i64])) -> Result<(), TensorError> {
    match t.dtype() {
        DType::Bool => native(t, |v: u8| i64::from(v != 0), sink)?,
        DType::I2 | DType::I4 => {
            let bits = t.dtype().bits();
            packed(t, |v| i64::from(narrow::sign_extend(bits, v)), sink);
        }
        DType::U2 | DType::U4 => packed(t, i64::from, sink),
        DType::I8 => native(t, |v: i8| i64::from(v), sink)?,
        DType::I16 => native(t, |v: i16| i64::from(v), sink)?,
        DType::I32 => native(t, |v: i32| i64::from(v), sink)?,
        DType::I64 => native(t, |v: i64| v, sink)?,
        DType::U8 => native(t, |v: u8| i64::from(v), sink)?,
        DType::U16 => native(t, |v: u16| i64::from(v), sink)?,
        DType::U32 => native(t, |v: u32| i64::from(v), sink)?,
        DType::U64 => native(t, |v: u64| v as i64, sink)?,
        d => return Err(unsupported("an integer view", d)),
    }
    Ok(())
}

/// Hands over the elements of any real or bool tensor, in order; wide integers are rounded.
pub(crate) fn blocks_f64(t: &Tensor, sink: &mut dyn FnMut(&[f64])) -> Result<(), TensorError> {
    match t.dtype() {
        DType::F16 => native(t, |v: f16| f64::from(v), sink)?,
        DType::BF16 => native(t, |v: bf16| f64::from(v), sink)?,
        DType::F32 => native(t, |v: f32| f64::from(v), sink)?,
        DType::F64 => native(t, |v: f64| v, sink)?,
        DType::F8E8M0 => native(t, |v: u8| f64::from(decode_e8m0(v)), sink)?,
        DType::U64 => native(t, |v: u64| v as f64, sink)?,
        d => match NarrowFloat::of(d) {
            Some(f @ NarrowFloat::F4E2M1) => packed(t, |v| f64::from(f.table()[v as usize]), sink),
            Some(f) => native(t, |v: u8| f64::from(f.table()[v as usize]), sink)?,
            None if d.is_complex() || d == DType::Str => return Err(unsupported("a real view", d)),
            None => {
                let mut block = [0.0; BLOCK];
                blocks_i64(t, &mut |chunk| {
                    for (o, &v) in block.iter_mut().zip(chunk) {
                        *o = v as f64;
                    }
                    sink(&block[..chunk.len()]);
                })?;
            }
        },
    }
    Ok(())
}

/// Fills a new tensor of a real type or bool, block after block.
pub(crate) struct Filler {
    tensor: Tensor,
    at: usize,
    options: CastOptions,
}

impl Filler {
    pub(crate) fn new(dtype: DType, shape: Shape, options: CastOptions) -> Result<Self, TensorError> {
        if dtype.is_complex() || dtype == DType::Str {
            return Err(unsupported("filling from real numbers", dtype));
        }
        Ok(Filler { tensor: Tensor::zeros(dtype, shape)?, at: 0, options })
    }

    /// The next elements; all blocks but the last have a multiple of four.
    fn put<W: Copy, T: Element>(&mut self, values: &[W], narrow: impl Fn(W) -> T) {
        let out = self.tensor.as_mut_slice::<T>().ok().flatten().expect("a new tensor of this very type");
        for (o, &v) in out[self.at..].iter_mut().zip(values) {
            *o = narrow(v);
        }
        self.at += values.len();
    }

    fn pack<W: Copy>(&mut self, values: &[W], code: impl Fn(W) -> u8) {
        let bits = self.tensor.dtype().bits();
        let mut codes = [0; BLOCK];
        for (o, &v) in codes.iter_mut().zip(values) {
            *o = code(v);
        }
        let at = self.at * bits / 8;
        let len = values.len().div_ceil(8 / bits);
        let out = self.tensor.bytes_mut().expect("a new tensor is ours alone");
        narrow::pack(bits, &codes[..values.len()], &mut out[at..at + len]);
        self.at += values.len();
    }

    pub(crate) fn put_i64(&mut self, v: &[i64]) {
        match self.tensor.dtype() {
            DType::Bool => self.put(v, |x| u8::from(x != 0)),
            DType::I2 | DType::U2 | DType::I4 | DType::U4 => self.pack(v, |x| x as u8),
            DType::I8 => self.put(v, |x| x as i8),
            DType::I16 => self.put(v, |x| x as i16),
            DType::I32 => self.put(v, |x| x as i32),
            DType::I64 => self.put(v, |x| x),
            DType::U8 => self.put(v, |x| x as u8),
            DType::U16 => self.put(v, |x| x as u16),
            DType::U32 => self.put(v, |x| x as u32),
            DType::U64 => self.put(v, |x| x as u64),
            DType::F32 => self.put(v, |x| x as f32),
            DType::F64 => self.put(v, |x| x as f64),
            _ => self.put_mapped(v, |x| {
                let sticky = sticky(x.unsigned_abs()) as f64;
                if x < 0 { -sticky } else { sticky }
            }),
        }
    }

    pub(crate) fn put_u64(&mut self, v: &[u64]) {
        match self.tensor.dtype() {
            DType::F32 => self.put(v, |x| x as f32),
            DType::F64 => self.put(v, |x| x as f64),
            d if d.is_float() => self.put_mapped(v, |x| sticky(x) as f64),
            _ => {
                let mut block = [0i64; BLOCK];
                for chunk in v.chunks(BLOCK) {
                    for (o, &x) in block.iter_mut().zip(chunk) {
                        *o = x as i64;
                    }
                    self.put_i64(&block[..chunk.len()]);
                }
            }
        }
    }

    fn put_mapped<W: Copy>(&mut self, v: &[W], map: impl Fn(W) -> f64) {
        let mut block = [0.0; BLOCK];
        for chunk in v.chunks(BLOCK) {
            for (o, &x) in block.iter_mut().zip(chunk) {
                *o = map(x);
            }
            self.put_f64(&block[..chunk.len()]);
        }
    }

    pub(crate) fn put_f64(&mut self, v: &[f64]) {
        let CastOptions { saturate, round_mode } = self.options;
        match self.tensor.dtype() {
            DType::Bool => self.put(v, |x| u8::from(x != 0.0)),
            DType::I2 | DType::U2 | DType::I4 | DType::U4 => self.pack(v, |x| x as i32 as u8),
            DType::I8 => self.put(v, |x| x as i32 as i8),
            DType::I16 => self.put(v, |x| x as i32 as i16),
            DType::I32 => self.put(v, |x| x as i32),
            DType::I64 => self.put(v, |x| x as i64),
            DType::U8 => self.put(v, |x| x as i32 as u8),
            DType::U16 => self.put(v, |x| x as i32 as u16),
            DType::U32 => self.put(v, |x| x as i64 as u32),
            DType::U64 => self.put(v, |x| if x < 0.0 { x as i64 as u64 } else { x as u64 }),
            DType::F16 => self.put(v, |x| f16::from_f32(round_to_odd(x))),
            DType::BF16 => self.put(v, |x| bf16::from_f32(round_to_odd(x))),
            DType::F32 => self.put(v, |x| x as f32),
            DType::F64 => self.put(v, |x| x),
            DType::F8E8M0 => self.put(v, |x| encode_e8m0(round_to_odd(x), round_mode, saturate)),
            d => match NarrowFloat::of(d) {
                Some(f @ NarrowFloat::F4E2M1) => self.pack(v, |x| f.encode(round_to_odd(x), saturate)),
                Some(f) => self.put(v, |x| f.encode(round_to_odd(x), saturate)),
                None => unreachable!("new() refuses strings and complex numbers, and all others are above"),
            },
        }
    }

    /// The tensor, when exactly its elements were put.
    pub(crate) fn finish(self) -> Tensor {
        debug_assert_eq!(self.at, self.tensor.len());
        self.tensor
    }
}

/// An integer that an f64 holds exactly and that rounds to any float of at most 40 bits as `x` does:
/// bits that do not fit are gathered in the lowest one kept.
fn sticky(x: u64) -> u64 {
    if x >> 53 == 0 { x } else { x >> 12 << 12 | u64::from(x & 0xfff != 0) << 12 }
}

impl Tensor {
    /// The elements of a real or bool tensor as `f64`: exact but for integers beyond 2^53.
    ///
    /// # Errors
    /// [`TensorError::Unsupported`] for complex numbers and strings.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>, TensorError> {
        let mut out = Vec::with_capacity(self.len());
        blocks_f64(self, &mut |v| out.extend_from_slice(v))?;
        Ok(out)
    }

    /// The elements of a real or bool tensor as `f32`, rounded to nearest.
    ///
    /// # Errors
    /// [`TensorError::Unsupported`] for complex numbers and strings.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>, TensorError> {
        match self.dtype {
            DType::F32 => Ok(self.to_slice()?.into_owned()),
            d if d.is_complex() || d == DType::Str => Err(unsupported("a real view", d)),
            _ => self.cast(DType::F32, CastOptions::default())?.to_f32_vec(),
        }
    }

    /// The elements of an integer or bool tensor.
    ///
    /// # Errors
    /// [`TensorError::Unsupported`] for every other type, and [`TensorError::Parse`] for a `u64` beyond `i64`.
    pub fn to_i64_vec(&self) -> Result<Vec<i64>, TensorError> {
        let mut out = Vec::with_capacity(self.len());
        blocks_i64(self, &mut |v| out.extend_from_slice(v))?;
        match out.iter().find(|&&v| v < 0) {
            Some(&v) if self.dtype == DType::U64 => {
                Err(TensorError::Parse { text: (v as u64).to_string(), dtype: DType::I64 })
            }
            _ => Ok(out),
        }
    }

    /// The elements of a bool tensor.
    ///
    /// # Errors
    /// [`TensorError::DType`] for every other type.
    pub fn to_bool_vec(&self) -> Result<Vec<bool>, TensorError> {
        if self.dtype != DType::Bool {
            return Err(TensorError::DType { expected: DType::Bool, actual: self.dtype });
        }
        Ok(self.bytes().iter().map(|&b| b != 0).collect())
    }

    /// A tensor of any real type or bool, each value converted as [`Tensor::cast`] would from f64.
    ///
    /// # Errors
    /// [`TensorError::Length`] unless there are exactly as many values as the shape has elements;
    /// [`TensorError::Unsupported`] for complex numbers and strings.
    pub fn from_f64s(
        dtype: DType,
        shape: impl Into<Shape>,
        values: impl IntoIterator<Item = f64>,
    ) -> Result<Self, TensorError> {
        fill(dtype, shape.into(), values.into_iter(), Filler::put_f64)
    }

    /// A tensor of any real type or bool, each value converted as [`Tensor::cast`] would from i64:
    /// integer types keep the low bits.
    ///
    /// # Errors
    /// As [`Tensor::from_f64s`].
    pub fn from_i64s(
        dtype: DType,
        shape: impl Into<Shape>,
        values: impl IntoIterator<Item = i64>,
    ) -> Result<Self, TensorError> {
        fill(dtype, shape.into(), values.into_iter(), Filler::put_i64)
    }

    /// The elements of any numeric or bool tensor as complex numbers.
    ///
    /// # Errors
    /// [`TensorError::Unsupported`] for strings.
    pub fn to_complex_vec(&self) -> Result<Vec<Complex<f64>>, TensorError> {
        match self.dtype {
            DType::C128 => Ok(self.to_slice()?.into_owned()),
            DType::C64 => {
                let wide = |c: &Complex<f32>| Complex { re: f64::from(c.re), im: f64::from(c.im) };
                Ok(self.to_slice::<Complex<f32>>()?.iter().map(wide).collect())
            }
            _ => Ok(self.to_f64_vec()?.into_iter().map(|re| Complex { re, im: 0.0 }).collect()),
        }
    }
}

fn fill<W: Copy + Default>(
    dtype: DType,
    shape: Shape,
    mut values: impl Iterator<Item = W>,
    put: impl Fn(&mut Filler, &[W]),
) -> Result<Tensor, TensorError> {
    let expected = shape.numel();
    // Before anything is allocated for a shape that the values cannot fill.
    if let Some(most) = values.size_hint().1.filter(|&most| most < expected) {
        return Err(length(&shape, dtype, expected, most));
    }
    let mut filler = Filler::new(dtype, shape, CastOptions::default())?;
    let mut block = [W::default(); BLOCK];
    loop {
        let want = BLOCK.min(expected - filler.at);
        let mut got = 0;
        for (o, v) in block[..want].iter_mut().zip(&mut values) {
            *o = v;
            got += 1;
        }
        put(&mut filler, &block[..got]);
        if got < want {
            return Err(length(filler.tensor.shape(), dtype, expected, filler.at));
        }
        if filler.at == expected {
            break;
        }
    }
    if values.next().is_some() {
        return Err(length(filler.tensor.shape(), dtype, expected, expected + 1));
    }
    Ok(filler.finish())
}
