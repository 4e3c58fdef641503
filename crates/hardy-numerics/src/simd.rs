//! The SIMD level that kernels run at: the best of the processor, or the one that `HARDY_SIMD` names. Most kernels are
//! portable loops that the compiler vectorises; [`dispatch`] compiles them once for each level (AVX-512, AVX2, scalar)
//! and runs the copy that is asked for.
//!
//! Results are the same at every level, to the bit: the compiler never fuses or reorders float operations by itself, what
//! is fused is written so, and sums have a fixed number of lanes.

use std::{env, sync::OnceLock};

use pulp::{Arch, Simd, WithSimd};

/// The environment variable that forces a level: `avx512`, `avx2`, `neon` or `scalar`.
pub const VARIABLE: &str = "HARDY_SIMD";

/// The names that [`VARIABLE`] may have on some machine.
const NAMES: [&str; 4] = ["avx512", "avx2", "neon", "scalar"];

/// A SIMD level that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Level(pub(crate) Arch);

impl Level {
    /// Those of this processor, the best first.
    pub fn available() -> Vec<Self> {
        let best = Arch::new();
        let below: &[Option<Arch>] = &[
            #[cfg(target_arch = "x86_64")]
            pulp::x86::V3::try_new().map(Arch::V3),
            #[cfg(target_arch = "x86_64")]
            Some(Arch::Scalar),
        ];
        let mut levels = vec![Self(best)];
        for level in below.iter().flatten().copied().map(Self) {
            if levels.iter().all(|other| other.name() != level.name()) {
                levels.push(level);
            }
        }
        levels
    }

    /// The level with this name.
    ///
    /// # Errors
    /// A sentence, where this processor has none.
    pub fn named(name: &str) -> Result<Self, String> {
        let levels = Self::available();
        levels.iter().copied().find(|level| level.name() == name).ok_or_else(|| {
            let own: Vec<&str> = levels.iter().map(|level| level.name()).collect();
            let wrong =
                if NAMES.contains(&name) { "this processor lacks it" } else { "no SIMD level has this name" };
            format!("{VARIABLE}={name}: {wrong}; here are {}", own.join(", "))
        })
    }

    /// The level that [`VARIABLE`] names, or the best.
    ///
    /// # Errors
    /// A sentence, where this processor has no such level.
    pub fn chosen() -> Result<Self, String> {
        match forced() {
            Some(name) => Self::named(&name),
            None => Ok(Self(Arch::new())),
        }
    }

    /// The level that everything here runs at: [`Level::chosen`], read once.
    ///
    /// # Panics
    /// If this processor has no such level.
    #[inline]
    pub fn current() -> Self {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| Self::chosen().unwrap_or_else(|wrong| panic!("{wrong}")))
    }

    /// `"avx512"`, `"avx2"`, `"neon"` or `"scalar"`.
    pub fn name(self) -> &'static str {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;

            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        match self.0.dispatch(Lanes) {
            16 => "avx512",
            8 => "avx2",
            4 => "neon",
            _ => "scalar",
        }
    }

    /// Whether it has the instructions of AVX, or newer ones of that kind.
    #[inline]
    pub fn has_avx(self) -> bool {
        cfg!(target_arch = "x86_64") && !matches!(self.0, Arch::Scalar)
    }

    /// Runs `f` compiled for this level; see [`dispatch`].
    #[inline]
    pub fn dispatch<R>(self, f: impl FnOnce() -> R) -> R {
        self.0.dispatch(f)
    }

    /// Runs an operation that is written in vectors of any width.
    #[inline]
    pub fn run<O: WithSimd>(self, operation: O) -> O::Output {
        self.0.dispatch(operation)
    }
}

/// What [`VARIABLE`] says, where it says anything.
pub fn forced() -> Option<String> {
    env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}

/// Runs `f` compiled for the current SIMD level.
///
/// Only code inlined into `f` is compiled for that level, so write `#[inline(always)]` on the closure and on every
/// function of the inner loop that it calls:
///
/// ```
/// let mut x = vec![1.0_f32; 1000];
/// hardy_numerics::simd::dispatch(
///     #[inline(always)]
///     || x.iter_mut().for_each(|v| *v *= 2.0),
/// );
/// assert!(x.iter().all(|&v| v == 2.0));
/// ```
#[inline]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    Level::current().dispatch(f)
}

/// The name of the current level.
pub fn level() -> &'static str {
    Level::current().name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatch_returns_what_the_closure_returns() {
        assert_eq!(dispatch(|| 6 * 7), 42);
    }

    #[test]
    fn every_level_has_a_name_of_its_own_and_is_found_by_it() {
        for level in Level::available() {
            assert_eq!(Level::named(level.name()).unwrap().name(), level.name());
            assert_eq!(level.dispatch(|| 6 * 7), 42);
        }
    }

    #[test]
    fn a_level_that_is_not_here_is_refused_with_those_that_are() {
        let best = Level::available()[0].name();
        let wrong = Level::named("avx1024").unwrap_err();
        assert!(wrong.starts_with("HARDY_SIMD=avx1024: no SIMD level has this name; here are "), "{wrong}");
        assert!(wrong.contains(best), "{wrong}");
        if best != "neon" {
            assert!(Level::named("neon").unwrap_err().contains("this processor lacks it"));
        }
    }
}
