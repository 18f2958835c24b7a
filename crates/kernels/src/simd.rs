//! Which vector instructions to use, decided once at run time.
//!
//! A kernel is a struct of its arguments with one generic `run`: a plain loop that the compiler
//! vectorizes. Dispatch compiles that loop once per level, inside a function that has the level's
//! target features on.

pub(crate) mod integer;
pub(crate) mod vector;

use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) enum Tier {
    Baseline,
    Avx2,
    Avx512,
}

/// A set of vector instructions that this machine was seen to have.
///
/// The only ways to get one are [`Level::best`] and [`Level::available`], so holding one proves that its
/// instructions may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(Tier);

impl Level {
    /// What every machine of this architecture has.
    pub const BASELINE: Level = Level(Tier::Baseline);

    /// The highest level of this machine, or the lower one that `TENSORMILL_CPU` names.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let cap = match std::env::var("TENSORMILL_CPU").as_deref() {
                Ok("baseline") => Tier::Baseline,
                Ok("avx2") => Tier::Avx2,
                _ => Tier::Avx512,
            };
            Level(detect().min(cap))
        })
    }

    /// Every level this machine can run, lowest first, whatever the environment says.
    pub fn available() -> impl Iterator<Item = Level> {
        let top = detect();
        [Tier::Baseline, Tier::Avx2, Tier::Avx512].into_iter().filter(move |&t| t <= top).map(Level)
    }

    /// The name that `TENSORMILL_CPU` understands.
    pub fn name(self) -> &'static str {
        match self.0 {
            Tier::Baseline => "baseline",
            Tier::Avx2 => "avx2",
            Tier::Avx512 => "avx512",
        }
    }

    pub(crate) fn tier(self) -> Tier {
        self.0
    }

    /// Runs a kernel compiled for this level.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Tier::Baseline => kernel.run::<Portable>(),
            // SAFETY: a `Level` above the baseline exists only where detection found its features.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => kernel.run::<Portable>(),
        }
    }
}

fn detect() -> Tier {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        if avx2 && avx512 {
            return Tier::Avx512;
        }
        if avx2 {
            return Tier::Avx2;
        }
    }
    Tier::Baseline
}

/// What a loop may assume about the instructions it is compiled for.
pub(crate) trait Isa: Copy {
    /// `a * b + c`, fused where that is one instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// The architecture's own baseline.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Isa for Portable {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        // Fused multiply-add is part of the baseline there; elsewhere it would be a library call.
        if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Fused multiply-add is an instruction.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Fma;

#[cfg(target_arch = "x86_64")]
impl Isa for Fma {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// A loop with its arguments, to be compiled once per level. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Out;
    fn run<I: Isa>(self) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
    kernel.run::<Fma>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
    kernel.run::<Fma>()
}
