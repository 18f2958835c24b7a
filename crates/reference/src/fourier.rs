//! The discrete Fourier transform of any length.

use std::f64::consts::{PI, TAU};

/// Real and imaginary part.
pub(crate) type Complex = (f64, f64);

fn times(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

fn turn(angle: f64) -> Complex {
    (angle.cos(), angle.sin())
}

/// The transform of `x`, or its inverse, which divides by the length.
pub(crate) fn transform(x: &[Complex], inverse: bool) -> Vec<Complex> {
    let n = x.len();
    // The inverse is the transform with real and imaginary parts swapped on the way in and out.
    let swap = |c: Complex| if inverse { (c.1, c.0) } else { c };
    let mut y: Vec<Complex> = x.iter().map(|c| swap(*c)).collect();
    match n {
        0 | 1 => {}
        _ if n.is_power_of_two() => halves(&mut y),
        _ if n < 32 => y = sums(&y),
        _ => y = chirp(&y),
    }
    let by = if inverse { n as f64 } else { 1.0 };
    y.into_iter().map(|c| swap((c.0 / by, c.1 / by))).collect()
}

/// By the definition.
fn sums(x: &[Complex]) -> Vec<Complex> {
    let n = x.len();
    let turns: Vec<Complex> = (0..n).map(|i| turn(-TAU * i as f64 / n as f64)).collect();
    let one = |k: usize| {
        x.iter().enumerate().fold((0.0, 0.0), |s, (i, c)| {
            let p = times(*c, turns[i * k % n]);
            (s.0 + p.0, s.1 + p.1)
        })
    };
    (0..n).map(one).collect()
}

/// Of a power of two: transforms of the even and the odd elements, put together in place.
fn halves(x: &mut [Complex]) {
    let n = x.len();
    let bits = n.trailing_zeros();
    for i in 0..n {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            x.swap(i, j);
        }
    }
    let turns: Vec<Complex> = (0..n / 2).map(|i| turn(-TAU * i as f64 / n as f64)).collect();
    let mut size = 2;
    while size <= n {
        for block in x.chunks_mut(size) {
            let (a, b) = block.split_at_mut(size / 2);
            for (i, (a, b)) in a.iter_mut().zip(b).enumerate() {
                let p = times(*b, turns[i * (n / size)]);
                (*a, *b) = ((a.0 + p.0, a.1 + p.1), (a.0 - p.0, a.1 - p.1));
            }
        }
        size *= 2;
    }
}

/// Of any length, as a convolution (Bluestein): `ik = (i^2 + k^2 - (k-i)^2) / 2`.
fn chirp(x: &[Complex]) -> Vec<Complex> {
    let n = x.len();
    let wide = (2 * n).next_power_of_two();
    // The square is reduced first, as a float would lose its low bits.
    let chirps: Vec<Complex> =
        (0..n).map(|i| turn(-PI * ((i as u128 * i as u128) % (2 * n as u128)) as f64 / n as f64)).collect();
    let mut a = vec![(0.0, 0.0); wide];
    let mut b = vec![(0.0, 0.0); wide];
    for i in 0..n {
        a[i] = times(x[i], chirps[i]);
        let back = (chirps[i].0, -chirps[i].1);
        b[i] = back;
        b[(wide - i) % wide] = back;
    }
    halves(&mut a);
    halves(&mut b);
    let product: Vec<Complex> = a.iter().zip(&b).map(|(a, b)| times(*a, *b)).collect();
    transform(&product, true)[..n].iter().zip(&chirps).map(|(y, c)| times(*y, *c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: &[Complex], b: &[Complex]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a.0 - b.0).hypot(a.1 - b.1) < 1e-9)
    }

    proptest! {
        #[test]
        fn every_length_agrees_with_the_definition(
            x in prop::collection::vec((-1.0..1.0f64, -1.0..1.0f64), 0..200),
        ) {
            prop_assert!(close(&transform(&x, false), &sums(&x)));
        }

        #[test]
        fn the_inverse_gives_the_signal_back(
            x in prop::collection::vec((-1.0..1.0f64, -1.0..1.0f64), 0..200),
        ) {
            prop_assert!(close(&transform(&transform(&x, false), true), &x));
        }
    }
}
