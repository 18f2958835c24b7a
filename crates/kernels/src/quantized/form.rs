//! In what form activations and weights are multiplied, and work compiled for each form's vectors.

use super::tile::MAX_ROWS;
#[cfg(target_arch = "aarch64")]
use crate::simd::integer::Bytes128;
use crate::simd::integer::{Base, Element, Sums};
#[cfg(target_arch = "x86_64")]
use crate::simd::integer::{Bytes256, Bytes512, Words256, Words512};
use crate::simd::{Level, Tier};

/// What activations are read as: it decides how weights are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Words, two to a group.
    Words,
    /// Bytes in half of their range, four to a group; what they do not hold is apart.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Pairs,
    /// Bytes, four to a group.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
    Bytes,
}

/// Fewer channels are read as words: groups of bytes would be filled up, and the numbers of images are spread
/// over all of their range.
const FEW_CHANNELS: usize = 5;

impl Form {
    /// The fastest form of a level on this machine for weights of so many channels.
    pub(crate) fn best(level: Level, channels: usize) -> Form {
        let [first, second] = Form::available(level);
        if second == Form::Pairs && channels < FEW_CHANNELS { first } else { second }
    }

    /// The forms that this machine has at a level, the faster one last.
    pub(crate) fn available(level: Level) -> [Form; 2] {
        match level.tier() {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => [Form::Words, Form::Bytes],
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => [Form::Words, Form::Pairs],
            #[cfg(target_arch = "aarch64")]
            _ if std::arch::is_aarch64_feature_detected!("dotprod") => [Form::Words, Form::Bytes],
            _ => [Form::Words; 2],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Form::Words => "words",
            Form::Pairs => "pairs",
            Form::Bytes => "bytes",
        }
    }

    pub(crate) fn group(self) -> usize {
        match self {
            Form::Words => 2,
            Form::Pairs | Form::Bytes => 4,
        }
    }

    /// What channels are filled up to multiples of.
    pub(crate) fn filled(self) -> usize {
        match self {
            Form::Words => 2,
            // Groups meet in twos.
            Form::Pairs => 8,
            Form::Bytes => 4,
        }
    }

    /// What is taken off bytes so that they are elements; that of pairs follows from their zero point.
    pub(crate) fn base(self) -> u8 {
        match self {
            Form::Bytes => <Byte as Element>::BASE,
            Form::Words | Form::Pairs => 0,
        }
    }

    /// Columns of a vector.
    pub(crate) fn lanes(self, level: Level) -> usize {
        crate::channels_last::conv::tile::lanes(level)
    }

    /// Rows of a tile.
    pub(crate) fn rows(self, level: Level) -> usize {
        match level.tier() {
            Tier::Avx512 => MAX_ROWS,
            // The weights of two groups and their products take the registers of two rows.
            Tier::Avx2 if self == Form::Pairs => 4,
            Tier::Avx2 => 6,
            // Sixteen sums hide the latency of products. Four groups of eight rows and the weights that meet them take
            // twelve of the other sixteen registers; two more rows would take more than there are.
            Tier::Baseline if cfg!(target_arch = "aarch64") => 8,
            Tier::Baseline => 4,
        }
    }

    /// Bytes of an activation's element.
    pub(crate) fn size(self) -> usize {
        match self {
            Form::Words => 2,
            Form::Pairs | Form::Bytes => 1,
        }
    }
}

/// The elements of [`Form::Bytes`]: products of bytes without a sign by such with one are x86's alone.
#[cfg(not(target_arch = "aarch64"))]
type Byte = u8;
#[cfg(target_arch = "aarch64")]
type Byte = <Bytes128 as Sums>::X;

/// Something done with the vectors of a form, compiled for each.
pub(crate) trait Job {
    type Out;
    /// # Safety
    /// `S`'s instructions are available.
    unsafe fn run<S: Sums>(self) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma")]
unsafe fn run_bytes512<J: Job>(job: J) -> J::Out {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Bytes512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_words512<J: Job>(job: J) -> J::Out {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Words512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_words256<J: Job>(job: J) -> J::Out {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Words256>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_pairs256<J: Job>(job: J) -> J::Out {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Bytes256>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn run_bytes128<J: Job>(job: J) -> J::Out {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Bytes128>() }
}

/// Runs a job with the vectors of this form; weights in bytes were packed where that form is available.
pub(crate) fn run<J: Job>(form: Form, level: Level, job: J) -> J::Out {
    match (form, level.tier()) {
        #[cfg(target_arch = "x86_64")]
        (Form::Bytes, Tier::Avx512) => {
            assert!(std::arch::is_x86_feature_detected!("avx512vnni"));
            // SAFETY: a level exists only where its instructions do, and the others were just seen.
            unsafe { run_bytes512(job) }
        }
        // SAFETY: a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        (_, Tier::Avx512) => unsafe { run_words512(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Form::Pairs, Tier::Avx2) => unsafe { run_pairs256(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (_, Tier::Avx2) => unsafe { run_words256(job) },
        #[cfg(target_arch = "aarch64")]
        (Form::Bytes, _) => {
            assert!(std::arch::is_aarch64_feature_detected!("dotprod"));
            // SAFETY: the instructions were just seen.
            unsafe { run_bytes128(job) }
        }
        // SAFETY: what is everywhere is here.
        _ => unsafe { job.run::<Base>() },
    }
}
