//! What the elements of a right factor are stored in: f32, or bfloat16, which a kernel widens as it reads them. So a weight of
//! half the bytes takes half the time to read, and gives the same bits.

use burn_tensor::bf16;
use hardy_numerics::simd::Level;
use pulp::{Simd, bytemuck};

use super::kernel::{Kernels, Sweep};
use crate::narrow::widen;

/// An element of a right factor.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Whether it is an f32.
    const WIDE: bool;

    /// In f32, to the same value.
    fn widen(self) -> f32;

    /// Some of them.
    fn widen_all<const N: usize>(from: &[Self; N]) -> [f32; N];

    /// A vector of them.
    ///
    /// # Safety
    /// As many as a vector has must be readable.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::f32s;

    /// The kernel of a level for its height of this index, for a left factor that is packed or not; `None` where there is none.
    fn sweep(kernels: &Kernels, height: usize, packed: bool) -> Option<Sweep<Self>>;
}

impl Element for f32 {
    const WIDE: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn widen_all<const N: usize>(from: &[f32; N]) -> [f32; N] {
        *from
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(_: S, from: *const f32) -> S::f32s {
        // SAFETY: the caller's.
        unsafe { from.cast::<S::f32s>().read_unaligned() }
    }

    fn sweep(kernels: &Kernels, height: usize, packed: bool) -> Option<Sweep<f32>> {
        Some(kernels.sweeps[height][usize::from(packed)])
    }
}

impl Element for bf16 {
    const WIDE: bool = false;

    #[inline(always)]
    fn widen(self) -> f32 {
        widen(self)
    }

    #[inline(always)]
    fn widen_all<const N: usize>(from: &[bf16; N]) -> [f32; N] {
        let mut to = [0.0; N];
        to.iter_mut().zip(from).for_each(|(to, from)| *to = widen(*from));
        to
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const bf16) -> S::f32s {
        let mut vector = [simd.splat_f32s(0.0)];
        let lanes: &mut [f32] = bytemuck::cast_slice_mut(&mut vector);
        for (i, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *lane = unsafe { from.add(i).read() }.widen();
        }
        vector[0]
    }

    fn sweep(kernels: &Kernels, height: usize, packed: bool) -> Option<Sweep<bf16>> {
        (!packed).then(|| kernels.narrow[height])
    }
}

/// Whether products of a right factor of such elements read it where it lies, with a left factor that is packed or not.
pub(super) fn read_in_place<T: Element>(level: Level, packed: bool) -> bool {
    T::sweep(Kernels::of(level), 0, packed).is_some()
}
