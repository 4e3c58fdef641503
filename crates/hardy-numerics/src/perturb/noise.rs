//! The kernels of noise, bias and truncation: pieces of rows, one after the other, with the energy of the error.

use super::apply::Piece;
use crate::energy::{ErrorEnergy, Lanes};
use crate::gaussian::{Stretch, with_gaussian};

/// Replaces every value by `image` of it.
#[inline(always)]
pub(super) fn each<'a>(pieces: impl Iterator<Item = Piece<'a>>, image: impl Fn(f32) -> f32) -> ErrorEnergy {
    let mut lanes = Lanes::new();
    for piece in pieces {
        lanes.replace(
            piece.x,
            #[inline(always)]
            |_, x| image(x),
        );
    }
    lanes.sum()
}

/// Replaces every value by `image` of it and of the Gaussian value at its address.
#[inline(always)]
pub(super) fn each_with_noise<'a>(
    pieces: impl Iterator<Item = Piece<'a>>,
    image: impl Fn(f32, f32) -> f32,
) -> ErrorEnergy {
    let mut lanes = Lanes::new();
    let stretches = pieces.map(
        #[inline(always)]
        |piece| Stretch { key: piece.keys.noise, row: piece.row, element: piece.element, x: piece.x },
    );
    with_gaussian(
        stretches,
        #[inline(always)]
        |x, noise| lanes.replace_with(x, noise, &image),
    );
    lanes.sum()
}

/// The largest multiple of `step`, each rounded to f32, that is not larger in magnitude than `x`, with its sign.
///
/// The quotient alone may round past an integer, so its neighbours are tried too: that makes truncation idempotent and
/// never lets it go away from zero. Where the spacing of f32 at `x` is at least about the step, `x` stays.
#[inline(always)]
pub(super) fn truncate(x: f32, step: f32) -> f32 {
    /// From here on quotients have no fraction.
    const WHOLE: f32 = 8_388_608.0;
    let magnitude = x.abs();
    let quotient = magnitude / step;
    let whole = quotient.trunc();
    let below = (whole - 1.0) * step;
    let near = whole * step;
    let above = (whole + 1.0) * step;
    let image = if near <= magnitude { near } else { below };
    let image = if above <= magnitude { above } else { image };
    if quotient < WHOLE { image.copysign(x) } else { x }
}
