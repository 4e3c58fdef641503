//! A rule's error as kernels take it: its kind is compiled in, its numbers and keys, new in every step, are arguments.

use cubecl::prelude::*;
use hardy_numerics::{Blocks, Chance, Fault, Image, Keys, NoiseKey, Perturbation, Quantization};

/// An error and where its randomness lies.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// What is done to a value.
    pub what: Perturbation,
    /// The keys of the site in this step.
    pub keys: Keys,
}

/// What an error falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The rows of an activation.
    Rows,
    /// A weight, or the gradient of one.
    Weight,
    /// The scores or probabilities of attention.
    Attention,
}

/// Whether the kernels here inject `what` at `place`: all errors of values, but for square blocks of anything that is no
/// weight.
pub fn supports(what: &Perturbation, place: Place) -> bool {
    match what {
        Perturbation::Accumulation(_) | Perturbation::Fault { fault: Fault::BurstFlip { .. }, .. } => false,
        Perturbation::Quantization(Quantization { blocks: Blocks::TwoD, .. }) => place == Place::Weight,
        _ => true,
    }
}

/// What is done to a value, all but its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Nothing: a scale, a rate or a sparsity of 0.
    Nothing,
    /// x + (ε·s)·|x|.
    Relative,
    /// x + ε·s.
    Absolute,
    /// x + sign(x)·s.
    Bias,
    /// x + x·s.
    RelativeBias,
    /// The multiple of s toward zero.
    Truncation,
    /// 0 below s.
    DeadZone,
    /// At most s.
    Saturation,
    /// x + s.
    Offset,
    /// s.
    Stuck,
    /// x ± s by chance.
    Spike,
    /// Bits flipped by chance.
    Flip {
        /// Whether the value is stored as BF16, not as f32.
        bf16: bool,
    },
}

impl Kind {
    /// Whether it takes a Gaussian value.
    pub fn is_gaussian(self) -> bool {
        matches!(self, Self::Relative | Self::Absolute)
    }

    /// Whether it takes a random word.
    pub fn is_random(self) -> bool {
        self.is_gaussian() || matches!(self, Self::Spike | Self::Flip { .. })
    }
}

/// The numbers of an error, and its keys.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) key_low: u32,
    pub(crate) key_high: u32,
    pub(crate) channels_low: u32,
    pub(crate) channels_high: u32,
    /// Scale, step, or what a channel is stuck at.
    pub(crate) scale: f32,
    /// Faulty is a channel whose two words lie below these.
    pub(crate) faulty: u32,
    pub(crate) faulty_rest: u32,
    /// It happens to a value whose two words lie below these.
    pub(crate) chance: u32,
    pub(crate) chance_rest: u32,
    /// Of a flip: a bit flips whose two words lie below these.
    pub(crate) each: u32,
    pub(crate) each_rest: u32,
    /// Of a flip: the first bit, and how many.
    pub(crate) first_bit: u32,
    pub(crate) bits: u32,
}

impl Numbers {
    /// Those of no error.
    pub fn nothing<R: Runtime>() -> NumbersLaunch<R> {
        Parts::default().numbers(Keys { noise: NoiseKey([0; 2]), channels: NoiseKey([0; 2]) })
    }
}

/// An error of values with its numbers.
pub(crate) struct Rule<R: Runtime> {
    pub kind: Kind,
    /// Whether only some channels are faulty.
    pub sparse: bool,
    pub numbers: NumbersLaunch<R>,
    /// Of a flip: where two words, the upper one first, pass the chance that the first bit to flip is a later one.
    pub later: Vec<u32>,
}

impl<R: Runtime> Rule<R> {
    /// The rule of an error that is no format and no accumulation.
    ///
    /// # Panics
    /// For these.
    pub fn new(error: &Error) -> Self {
        let what = &error.what;
        let mut fault = Parts { scale: what.scale().unwrap_or_default() as f32, ..Parts::default() };
        let kind = match *what {
            _ if what.is_off() => Kind::Nothing,
            Perturbation::RelativeGaussian { .. } => Kind::Relative,
            Perturbation::AbsoluteGaussian { .. } => Kind::Absolute,
            Perturbation::SystematicBias { relative: false, .. } => Kind::Bias,
            Perturbation::SystematicBias { relative: true, .. } => Kind::RelativeBias,
            Perturbation::Truncation { .. } => Kind::Truncation,
            Perturbation::Fault { fault: what, sparsity } => {
                fault.sparsity = sparsity;
                fault.of(what)
            }
            Perturbation::Quantization(_) | Perturbation::Accumulation(_) => {
                panic!("{} is no error of single values", what.kind_name())
            }
        };
        let sparse = kind != Kind::Nothing && fault.sparsity < 1.0;
        let later = std::mem::take(&mut fault.later);
        Self { kind, sparse, numbers: fault.numbers(error.keys), later }
    }
}

/// The parts of a rule on the way.
struct Parts {
    scale: f32,
    sparsity: f64,
    chance: [u32; 2],
    each: [u32; 2],
    range: (u32, u32),
    later: Vec<u32>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { scale: 0.0, sparsity: 1.0, chance: [0; 2], each: [0; 2], range: (0, 0), later: Vec::new() }
    }
}

impl Parts {
    fn of(&mut self, fault: Fault) -> Kind {
        match fault {
            Fault::DeadZone { .. } => Kind::DeadZone,
            Fault::Saturation { .. } => Kind::Saturation,
            Fault::Bias { .. } => Kind::Offset,
            Fault::Stuck { value } => {
                self.scale = value as f32;
                Kind::Stuck
            }
            Fault::Spike { rate, .. } => {
                self.chance = Chance::of_bits(rate, 31).threshold();
                Kind::Spike
            }
            Fault::BitFlip { rate, bits, image } => {
                self.range = bits.range(image);
                let count = self.range.1 - self.range.0 + 1;
                self.chance = Chance::new(some_of(rate, count)).threshold();
                self.each = Chance::new(rate).threshold();
                // At `count` words the chance is as good as certain, so that there is no later bit.
                self.later = (1..count).flat_map(|bit| Chance::new(some_of(rate, bit)).threshold()).collect();
                self.later.resize(2 * 32, u32::MAX);
                Kind::Flip { bf16: image == Image::Bf16 }
            }
            Fault::BurstFlip { .. } => unreachable!("bursts are flipped on the host, as `supports` says"),
        }
    }

    fn numbers<R: Runtime>(&self, keys: Keys) -> NumbersLaunch<R> {
        let [faulty, faulty_rest] = Chance::new(self.sparsity).threshold();
        let ([low, high], [channels_low, channels_high]) = (keys.noise.0, keys.channels.0);
        let ([chance, chance_rest], [each, each_rest]) = (self.chance, self.each);
        let (first, last) = self.range;
        NumbersLaunch::new(
            low,
            high,
            channels_low,
            channels_high,
            self.scale,
            faulty,
            faulty_rest,
            chance,
            chance_rest,
            each,
            each_rest,
            first,
            last - first + 1,
        )
    }
}

/// The chance that at least one of `count` bits flips.
fn some_of(rate: f64, count: u32) -> f64 {
    -(f64::from(count) * (-rate).ln_1p()).exp_m1()
}
