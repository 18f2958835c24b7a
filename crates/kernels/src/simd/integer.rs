//! Vectors of 32-bit sums for products of small integers.
//!
//! A vector of weights holds, for each of its columns, a group of steps of depth side by side; a group of
//! the activation is spread over all columns, and one instruction or two multiply and add up the groups.

#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod paired;
pub(crate) mod pairs;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::vector::Vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Bytes256, Bytes512, Words256, Words512};

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Bytes128;

/// The sums of the architecture's own baseline.
#[cfg(target_arch = "aarch64")]
pub(crate) type Base = neon::Words128;
/// The sums of the architecture's own baseline.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) type Base = WordsOf4;

/// An element of an activation as the products read it.
pub(crate) trait Element: Copy + Send + Sync + Default + 'static {
    /// How much less than the byte that it comes from an element is.
    const BASE: u8 = 0;
    /// From a byte in 0..=255.
    fn from_u8(x: u8) -> Self;
    /// The byte that it comes from.
    fn to_i32(self) -> i32;
}

impl Element for i16 {
    #[inline(always)]
    fn from_u8(x: u8) -> i16 {
        i16::from(x)
    }
    #[inline(always)]
    fn to_i32(self) -> i32 {
        i32::from(self)
    }
}

/// Bytes less 128.
impl Element for i8 {
    const BASE: u8 = 128;
    #[inline(always)]
    fn from_u8(x: u8) -> i8 {
        (x ^ 0x80) as i8
    }
    #[inline(always)]
    fn to_i32(self) -> i32 {
        i32::from(self) + i32::from(i8::BASE)
    }
}

impl Element for u8 {
    #[inline(always)]
    fn from_u8(x: u8) -> u8 {
        x
    }
    #[inline(always)]
    fn to_i32(self) -> i32 {
        i32::from(self)
    }
}

/// How whole numbers become bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Narrow {
    /// The byte that stands for zero, as if bytes had no sign.
    pub zero: i16,
    pub low: u8,
    pub high: u8,
    /// 0x80 where bytes have a sign.
    pub flip: u8,
}

/// A vector of sums. Every method is inlined into a function that has the vector's instructions on.
///
/// # Safety of the methods
/// All need the vector's instructions. Loads and stores need as many elements at `p` as they touch.
pub(crate) trait Sums: Copy {
    /// Floats of as many lanes.
    type Floats: Vector;
    /// What an activation is read as.
    type X: Element;
    /// A group spread over all lanes.
    type Spread: Copy;
    /// Weights of one group for each lane.
    type Weights: Copy;
    const LANES: usize = <Self::Floats as Vector>::LANES;
    /// Steps of depth of a group.
    const GROUP: usize;
    /// Whether products are added up in words on their way. Then elements are small enough, and the weights of
    /// a column in two groups that meet in [`Sums::dot_both`] such, that no word is exceeded.
    const PAIRED: bool = false;
    unsafe fn zero() -> Self;
    unsafe fn splat(x: i32) -> Self;
    unsafe fn spread(p: *const Self::X) -> Self::Spread;
    /// `LANES * GROUP` weights.
    unsafe fn weights(p: *const i8) -> Self::Weights;
    /// The weights of two vectors, `LANES * GROUP` bytes of two weights of four bits without a sign: the low ones
    /// are the first vector's.
    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> [Self::Weights; 2] {
        let (mut low, mut high) = ([0i8; 64], [0i8; 64]);
        for i in 0..Self::LANES * Self::GROUP {
            // SAFETY: the caller gives that many bytes; no vector has more than 64 weights.
            let x = unsafe { *p.add(i) };
            (low[i], high[i]) = ((x & 15) as i8, (x >> 4) as i8);
        }
        // SAFETY: both have the weights of a vector.
        unsafe { [Self::weights(low.as_ptr()), Self::weights(high.as_ptr())] }
    }
    /// `acc + a . w`, without saturation.
    unsafe fn dot(acc: Self, a: Self::Spread, w: Self::Weights) -> Self;
    /// Whether [`Sums::dot_four`] is more than four groups one after the other.
    const FOURS: bool = false;
    /// Adds the products of four groups, so many bytes after each row's pointer, by the weights of all four.
    #[inline(always)]
    unsafe fn dot_four<const MR: usize, const NV: usize>(
        a: &[*const Self::X; MR],
        k: isize,
        b: *const i8,
        acc: &mut [[Self; NV]; MR],
    ) {
        let vector = Self::LANES * Self::GROUP;
        // SAFETY: the caller gives four groups of every row and the weights of all.
        unsafe {
            for g in 0..4 {
                for i in 0..MR {
                    let x = Self::spread(a[i].byte_offset(k).add(g * Self::GROUP));
                    for v in 0..NV {
                        acc[i][v] = Self::dot(acc[i][v], x, Self::weights(b.add((g * NV + v) * vector)));
                    }
                }
            }
        }
    }
    /// Adds the products of two groups by the weights of both to a row of sums.
    #[inline(always)]
    unsafe fn dot_both<const NV: usize>(
        acc: &mut [Self; NV],
        a: [*const Self::X; 2],
        w: &[[Self::Weights; 2]; NV],
    ) {
        // SAFETY: the caller gives two groups.
        unsafe {
            let x = [Self::spread(a[0]), Self::spread(a[1])];
            for v in 0..NV {
                acc[v] = Self::dot(Self::dot(acc[v], x[0], w[v][0]), x[1], w[v][1]);
            }
        }
    }
    /// `acc + a . w`, or `acc - a . w`.
    #[inline(always)]
    unsafe fn dot_signed(acc: Self, a: Self::Spread, w: Self::Weights, negative: bool) -> Self {
        // SAFETY: forwarded.
        unsafe {
            let product = Self::dot(Self::zero(), a, w);
            if negative { Self::sub(acc, product) } else { Self::add(acc, product) }
        }
    }
    /// Takes the 32 bytes at `from`, with the bits of `flip` turned over, less `base` apart: what 0..=`span` holds
    /// of them, what is more and what is less go where the pointers say, and a bit for each byte of which there is
    /// more, and less, comes back. The bytes may lie where what is more goes.
    #[inline(always)]
    unsafe fn narrow(
        [base, flip, span]: [u8; 3],
        from: *const u8,
        [narrow, more, less]: [*mut u8; 3],
    ) -> [u32; 2] {
        let mut lost = [0; 2];
        for i in 0..32 {
            // SAFETY: the caller gives 32 bytes of each.
            unsafe {
                let x = *from.add(i) ^ flip;
                *narrow.add(i) = x.saturating_sub(base).min(span);
                *more.add(i) = x.saturating_sub(base).saturating_sub(span);
                *less.add(i) = base.saturating_sub(x);
                lost[0] |= u32::from(*more.add(i) != 0) << i;
                lost[1] |= u32::from(*less.add(i) != 0) << i;
            }
        }
        lost
    }
    unsafe fn load(p: *const i32) -> Self;
    unsafe fn store(self, p: *mut i32);
    unsafe fn add(a: Self, b: Self) -> Self;
    unsafe fn sub(a: Self, b: Self) -> Self;
    unsafe fn mul(a: Self, b: Self) -> Self;
    unsafe fn xor(a: Self, b: Self) -> Self;
    unsafe fn to_floats(self) -> Self::Floats;
    /// The nearest integers, of two as near the even one; numbers must be within those of 32 bits.
    unsafe fn nearest(x: Self::Floats) -> Self;
    /// `LANES` bytes as numbers in 0..=255.
    unsafe fn load_bytes(p: *const u8) -> Self;
    /// The low bytes of numbers in 0..=255.
    unsafe fn store_bytes(self, p: *mut u8);
    /// Stores `2 * LANES` bytes: the numbers moved by `zero` and kept within 0..=255 and then within the limits,
    /// with the bits of `flip` turned over. Numbers beyond 16 bits stand for the ends of those.
    #[inline(always)]
    unsafe fn store_bytes_of_both(a: Self, b: Self, to: Narrow, p: *mut u8) {
        let mut room = [[0i32; 16]; 2];
        // SAFETY: no vector has more than sixteen lanes; the caller gives room for the bytes of both.
        unsafe {
            a.store(room[0].as_mut_ptr());
            b.store(room[1].as_mut_ptr());
            for (i, room) in room.iter().enumerate() {
                for j in 0..Self::LANES {
                    let x = room[j].saturating_add(i32::from(to.zero)).clamp(0, 255) as u8;
                    *p.add(i * Self::LANES + j) = x.max(to.low).min(to.high) ^ to.flip;
                }
            }
        }
    }
    /// The same for two rows, which go to `p` and `q`.
    #[inline(always)]
    unsafe fn store_bytes_of_rows(x: [[Self; 2]; 2], to: Narrow, p: *mut u8, q: *mut u8) {
        // SAFETY: forwarded.
        unsafe {
            Self::store_bytes_of_both(x[0][0], x[0][1], to, p);
            Self::store_bytes_of_both(x[1][0], x[1][1], to, q);
        }
    }
    /// What [`Sums::floats_of_four`] adds to every byte.
    const SHIFT: f32 = 0.0;
    /// `4 * LANES` bytes, with the bits of `flip` turned over, as floats from `SHIFT` to `SHIFT + 255`, in an order
    /// that is [`Sums::store_bytes_of_four`]'s.
    #[inline(always)]
    unsafe fn floats_of_four(p: *const u8, flip: u8) -> [Self::Floats; 4] {
        // SAFETY: the caller gives that many bytes.
        unsafe {
            let flip = Self::splat(i32::from(flip));
            let mut out = [Self::zero().to_floats(); 4];
            for (i, out) in out.iter_mut().enumerate() {
                *out = Self::xor(Self::load_bytes(p.add(i * Self::LANES)), flip).to_floats();
            }
            out
        }
    }
    /// As [`Sums::store_bytes_of_both`], for `4 * LANES` bytes.
    #[inline(always)]
    unsafe fn store_bytes_of_four(x: [Self; 4], to: Narrow, p: *mut u8) {
        // SAFETY: the caller gives room for that many bytes.
        unsafe {
            Self::store_bytes_of_both(x[0], x[1], to, p);
            Self::store_bytes_of_both(x[2], x[3], to, p.add(2 * Self::LANES));
        }
    }
    /// The first `n <= LANES` of `LANES` bytes, and zeros behind them.
    #[inline(always)]
    unsafe fn load_first_bytes(p: *const u8, n: usize) -> Self {
        let mut room = [0u8; 16];
        // SAFETY: the caller gives `n` bytes; no vector has more than sixteen lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(p, room.as_mut_ptr(), n);
            Self::load_bytes(room.as_ptr())
        }
    }
    /// Stores the first `n <= LANES` low bytes.
    #[inline(always)]
    unsafe fn store_first_bytes(self, p: *mut u8, n: usize) {
        let mut room = [0u8; 16];
        // SAFETY: the caller gives room for `n` bytes; no vector has more than sixteen lanes.
        unsafe {
            self.store_bytes(room.as_mut_ptr());
            std::ptr::copy_nonoverlapping(room.as_ptr(), p, n);
        }
    }
}

/// Four sums in plain arithmetic, for architectures whose baseline has no vector of its own here.
#[cfg(not(target_arch = "aarch64"))]
#[derive(Clone, Copy)]
pub(crate) struct WordsOf4([i32; 4]);

#[cfg(not(target_arch = "aarch64"))]
impl Sums for WordsOf4 {
    type Floats = super::vector::Base;
    type X = i16;
    type Spread = [i16; 2];
    type Weights = [i8; 8];
    const GROUP: usize = 2;
    #[inline(always)]
    unsafe fn zero() -> Self {
        WordsOf4([0; 4])
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        WordsOf4([x; 4])
    }
    #[inline(always)]
    unsafe fn spread(p: *const i16) -> [i16; 2] {
        // SAFETY: the caller gives two elements; arrays need no more alignment.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i8) -> [i8; 8] {
        // SAFETY: the caller gives eight weights.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self, a: [i16; 2], w: [i8; 8]) -> Self {
        WordsOf4(std::array::from_fn(|i| {
            acc.0[i]
                .wrapping_add(i32::from(a[0]) * i32::from(w[2 * i]))
                .wrapping_add(i32::from(a[1]) * i32::from(w[2 * i + 1]))
        }))
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        // SAFETY: the caller gives four numbers.
        WordsOf4(unsafe { *p.cast() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: the caller gives room for four numbers.
        unsafe { *p.cast() = self.0 }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        WordsOf4(std::array::from_fn(|i| a.0[i].wrapping_add(b.0[i])))
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        WordsOf4(std::array::from_fn(|i| a.0[i].wrapping_sub(b.0[i])))
    }
    #[inline(always)]
    unsafe fn mul(a: Self, b: Self) -> Self {
        WordsOf4(std::array::from_fn(|i| a.0[i].wrapping_mul(b.0[i])))
    }
    #[inline(always)]
    unsafe fn xor(a: Self, b: Self) -> Self {
        WordsOf4(std::array::from_fn(|i| a.0[i] ^ b.0[i]))
    }
    #[inline(always)]
    unsafe fn to_floats(self) -> Self::Floats {
        let floats = self.0.map(|x| x as f32);
        // SAFETY: there are four floats.
        unsafe { Vector::load(floats.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn nearest(x: Self::Floats) -> Self {
        let mut floats = [0.0f32; 4];
        // SAFETY: there is room for four floats.
        unsafe { x.store(floats.as_mut_ptr()) };
        WordsOf4(floats.map(|x| x.round_ties_even() as i32))
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self {
        // SAFETY: the caller gives four bytes.
        WordsOf4(unsafe { *p.cast::<[u8; 4]>() }.map(i32::from))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8) {
        // SAFETY: the caller gives room for four bytes.
        unsafe { *p.cast::<[u8; 4]>() = self.0.map(|x| x as u8) }
    }
}
