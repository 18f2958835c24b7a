//! Elements of 2 and 4 bits, which share bytes: the first in the low bits.

/// The elements `start..start + out.len()` of a packed array, each in the low bits of a byte of its own.
///
/// # Panics
/// When the range is outside `packed`.
pub fn unpack(bits: usize, packed: &[u8], start: usize, out: &mut [u8]) {
    debug_assert!(bits == 2 || bits == 4);
    let per_byte = 8 / bits;
    let mask = (1u8 << bits) - 1;
    for (i, o) in (start..).zip(out) {
        *o = packed[i / per_byte] >> (i % per_byte * bits) & mask;
    }
}

/// The value of a two's complement code of `bits` bits; bits above are ignored.
pub const fn sign_extend(bits: usize, code: u8) -> i8 {
    ((code << (8 - bits)) as i8) >> (8 - bits)
}

/// Packs the low `bits` of each value, the first in the lowest bits; bits that are left over are zero.
///
/// # Panics
/// When `packed` is not as long as the values need.
pub fn pack(bits: usize, values: &[u8], packed: &mut [u8]) {
    debug_assert!(bits == 2 || bits == 4);
    let per_byte = 8 / bits;
    let mask = (1u8 << bits) - 1;
    assert_eq!(packed.len(), values.len().div_ceil(per_byte));
    for (byte, group) in packed.iter_mut().zip(values.chunks(per_byte)) {
        *byte = group.iter().rev().fold(0, |b, v| b << bits | v & mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn low_bits_come_first() {
        let mut packed = [0; 2];
        pack(4, &[0x1, 0xf, 0x7], &mut packed);
        assert_eq!(packed, [0xf1, 0x07]);
        pack(2, &[1, 2, 3, 0, 3], &mut packed);
        assert_eq!(packed, [0b00_11_10_01, 0b11]);
        assert_eq!((0..4).map(|c| sign_extend(2, c)).collect::<Vec<_>>(), [0, 1, -2, -1]);
        assert_eq!(
            [sign_extend(4, 7), sign_extend(4, 8), sign_extend(4, 15), sign_extend(4, 0xf0)],
            [7, -8, -1, 0]
        );
    }

    proptest! {
        #[test]
        fn unpacking_reverses_packing(bits in prop_oneof![Just(2usize), Just(4)], values: Vec<u8>, at: usize) {
            let mut packed = vec![0xff; values.len().div_ceil(8 / bits)];
            pack(bits, &values, &mut packed);
            let start = at % (values.len() + 1);
            let mut out = vec![0; values.len() - start];
            unpack(bits, &packed, start, &mut out);
            let expected: Vec<u8> = values[start..].iter().map(|v| v & ((1 << bits) - 1)).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
