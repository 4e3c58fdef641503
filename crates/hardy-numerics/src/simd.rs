//! Run-time choice of the SIMD level. The kernels are portable loops that the compiler vectorises; this compiles them
//! once for each level (AVX-512, AVX2, baseline) and runs the copy that the machine can.

/// Runs `f` compiled for the best SIMD level of this machine.
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
///
/// Floating-point results are the same at every level, for the compiler never fuses or reorders float operations by
/// itself.
#[inline]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// The name of the SIMD level that [`dispatch`] uses here: `"avx512"`, `"avx2"`, `"neon"` or `"baseline"`.
pub fn level() -> &'static str {
    struct Name;
    impl pulp::WithSimd for Name {
        type Output = &'static str;

        fn with_simd<S: pulp::Simd>(self, _: S) -> &'static str {
            match (cfg!(target_arch = "aarch64"), S::F32_LANES) {
                (_, 16) => "avx512",
                (_, 8) => "avx2",
                (true, 4) => "neon",
                _ => "baseline",
            }
        }
    }
    pulp::Arch::new().dispatch(Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatch_returns_what_the_closure_returns() {
        assert_eq!(dispatch(|| 6 * 7), 42);
        assert!(["avx512", "avx2", "neon", "baseline"].contains(&level()));
    }
}
