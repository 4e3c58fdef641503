//! Fitting an error to what an operator wrote beyond what it should have: deterministic kinds by how much of it they
//! explain, random ones by likelihood.

use hardy_numerics::Perturbation;
use hardy_ops::{NoisyBackend, Point};
use serde::Serialize;

use super::{Kind, operand::Product};
use crate::{error::LabError, statistics::Interval};

/// A deterministic kind that explains less than this is none.
const EXPLAINS: f64 = 0.5;
/// Two-sided 95 % of a normal.
const Z95: f64 = 1.959_964;

/// An error, fitted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fitted {
    /// The kind.
    pub kind: Kind,
    /// Its scale, where it has one, with a 95 % interval.
    pub scale: Option<(f64, Interval)>,
    /// ‖own error‖₂/‖output‖₂ of the machine.
    pub seen: f64,
    /// That of Hardy under the fitted error, on the same inputs.
    pub simulated: f64,
    /// Of a deterministic kind, the share of the error's energy that it explains: 1 is to the bit.
    pub explained: Option<f64>,
    /// Of a random kind, the largest distance between the distribution of the standardised errors and a normal
    /// (Kolmogorov-Smirnov): 0 is perfect, above 0.05 it is another kind.
    pub distance: Option<f64>,
}

/// How much of the own error of `products` the kind explains, as a share of its energy: 1 − Σ(seen − simulated)²/Σ(seen − exact)².
pub fn explained<B: NoisyBackend>(products: &[&Product<B>], kind: &Kind) -> Result<f64, LabError> {
    let (mut left, mut all) = (0.0, 0.0);
    for product in products {
        let simulated = product.under(kind)?;
        left += energy(&product.seen, &simulated);
        all += energy(&product.seen, &product.exact);
    }
    Ok(if all > 0.0 { 1.0 - left / all } else { 0.0 })
}

/// Fits the error of a class of products, of which the deterministic kind `best` explains most.
pub fn fit<B: NoisyBackend>(
    products: &[&Product<B>],
    best: Option<&Kind>,
    clean: bool,
) -> Result<Fitted, LabError> {
    let signal: f64 = products.iter().map(|product| square(&product.exact)).sum();
    let share = |energy: f64| if energy == 0.0 { 0.0 } else { (energy / signal).sqrt() };
    let seen = share(products.iter().map(|product| energy(&product.seen, &product.exact)).sum());
    let simulate = |kind: &Kind| -> Result<f64, LabError> {
        let one = |product: &&Product<B>| Ok(energy(&product.under(kind)?, &product.exact));
        Ok(share(products.iter().map(one).collect::<Result<Vec<f64>, LabError>>()?.iter().sum()))
    };
    if clean {
        let (kind, simulated) = (Kind::Clean, 0.0);
        return Ok(Fitted { kind, scale: None, seen, simulated, explained: None, distance: None });
    }
    if let Some(kind) = best {
        let explained = explained(products, kind)?;
        if explained >= EXPLAINS {
            let (kind, simulated) = (kind.clone(), simulate(kind)?);
            return Ok(Fitted {
                kind,
                scale: None,
                seen,
                simulated,
                explained: Some(explained),
                distance: None,
            });
        }
    }
    let pairs: Vec<(f64, f64)> = products
        .iter()
        .flat_map(|product| product.exact.iter().zip(&product.seen))
        .map(|(x, y)| (f64::from(*x), f64::from(*y) - f64::from(*x)))
        .filter(|(x, error)| *x != 0.0 && error.is_finite())
        .collect();
    let (error, scale, distance) = random(&pairs);
    let half = Z95 * scale / (2.0 * pairs.len().max(1) as f64).sqrt();
    let kind = Kind::At(error, vec![Point::Output]);
    let simulated = simulate(&kind)?;
    let interval = Interval { low: scale - half, high: scale + half };
    Ok(Fitted {
        kind,
        scale: Some((scale, interval)),
        seen,
        simulated,
        explained: None,
        distance: Some(distance),
    })
}

/// The likelier of relative and absolute Gaussian error for pairs of a value and its error; its scale, and its distance from
/// a normal.
fn random(pairs: &[(f64, f64)]) -> (Perturbation, f64, f64) {
    let n = pairs.len().max(1) as f64;
    let rms =
        |of: &dyn Fn(&(f64, f64)) -> f64| (pairs.iter().map(|pair| of(pair).powi(2)).sum::<f64>() / n).sqrt();
    let relative = rms(&|(x, error)| error / x.abs());
    let absolute = rms(&|(_, error)| *error);
    // Up to a constant, −log-likelihood / n at the best scale of each.
    let log_size = pairs.iter().map(|(x, _)| x.abs().ln()).sum::<f64>() / n;
    if relative.ln() + log_size <= absolute.ln() {
        let standard = pairs.iter().map(|(x, error)| error / x.abs() / relative).collect();
        (Perturbation::RelativeGaussian { scale: relative }, relative, from_normal(standard))
    } else {
        let standard = pairs.iter().map(|(_, error)| error / absolute).collect();
        (Perturbation::AbsoluteGaussian { scale: absolute }, absolute, from_normal(standard))
    }
}

/// The Kolmogorov-Smirnov distance of a sample from the standard normal.
fn from_normal(mut sample: Vec<f64>) -> f64 {
    sample.sort_by(f64::total_cmp);
    let n = sample.len().max(1) as f64;
    let cdf = |z: f64| 0.5 * statrs::function::erf::erfc(-z / std::f64::consts::SQRT_2);
    let distance = |(i, z): (usize, &f64)| {
        let (p, below, up_to) = (cdf(*z), i as f64 / n, (i + 1) as f64 / n);
        (p - below).abs().max((up_to - p).abs())
    };
    sample.iter().enumerate().map(distance).fold(0.0, f64::max)
}

fn energy(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).filter(|e| e.is_finite()).sum()
}

fn square(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).filter(|e| e.is_finite()).sum()
}

#[cfg(test)]
mod tests {
    use hardy_numerics::{NoiseKey, Row, fill_gaussian};

    use super::*;

    #[test]
    fn relative_and_absolute_noise_are_told_apart_with_their_scales() {
        let (mut x, mut noise) = (vec![0.0; 20_000], vec![0.0; 20_000]);
        fill_gaussian(NoiseKey([1, 2]), Row::WEIGHT, 0, &mut x);
        fill_gaussian(NoiseKey([3, 4]), Row::WEIGHT, 0, &mut noise);
        let pairs = |scale: &dyn Fn(f64) -> f64| -> Vec<(f64, f64)> {
            x.iter().zip(&noise).map(|(&x, &e)| (x.into(), f64::from(e) * scale(x.into()))).collect()
        };
        let (error, scale, distance) = random(&pairs(&|x| 0.03 * x.abs()));
        assert!(matches!(error, Perturbation::RelativeGaussian { .. }));
        assert!((scale - 0.03).abs() < 0.0006 && distance < 0.02, "{scale} {distance}");
        let (error, scale, distance) = random(&pairs(&|_| 0.2));
        assert!(matches!(error, Perturbation::AbsoluteGaussian { .. }));
        assert!((scale - 0.2).abs() < 0.004 && distance < 0.02, "{scale} {distance}");
        let (_, _, distance) = random(&pairs(&|x| if x > 0.0 { 0.3 } else { 0.001 }));
        assert!(distance > 0.05, "{distance}");
    }
}
