//! Faults of hardware. A fault sits in channels: a set of positions along the last axis that is fixed by the seed and the
//! place, the same in every step, phase and row. Channel c is faulty where its random bits lie below the sparsity.

use super::apply::Piece;
use super::burst::{Bursts, WINDOW};
use super::chance::{Chance, second_word};
use super::share;
use crate::address::{NoiseKey, Row};
use crate::energy::{ErrorEnergy, Lanes};
use crate::formats::float::{BF16_DROPPED, round_bits};
use crate::formats::round::Nearest;
use crate::random::{CHUNK, fill_bits};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with a faulty channel. NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Values smaller in magnitude than `scale` become 0.
    DeadZone {
        /// The smallest magnitude that survives.
        scale: f64,
    },
    /// Values are clamped to ±`scale`; 0 is no fault.
    Saturation {
        /// The largest magnitude.
        scale: f64,
    },
    /// A value is moved by +`scale` or −`scale`, at random.
    Spike {
        /// The height of a spike.
        scale: f64,
        /// The probability of a spike, for each value.
        rate: f64,
    },
    /// Every value is moved by +`scale`.
    Bias {
        /// The offset.
        scale: f64,
    },
    /// Every value is `value`.
    Stuck {
        /// What the channel is held at.
        value: f64,
    },
    /// Bits of the stored value are flipped.
    BitFlip {
        /// The probability of a flip, for each bit.
        rate: f64,
        /// The bits that can be flipped.
        bits: Bits,
        /// How the value is stored; one without flips stays as it is.
        image: Image,
    },
    /// Several bits of values a fixed stride apart are flipped together, as faulty logic does (arXiv:2605.04213). A row falls
    /// into windows of 1024 neighbouring elements. An event strikes a window: a lane in 0..`period` is drawn, and in every value
    /// of the window whose element is that lane modulo `period` the same 1 to `burst` bits are flipped.
    BurstFlip {
        /// The probability of an event, for each window of a row.
        rate: f64,
        /// The stride of the values that an event strikes.
        period: u32,
        /// The most bits that an event flips; every number up to it is as likely.
        burst: u32,
        /// The bits that can be flipped.
        bits: Bits,
        /// How the value is stored.
        image: Image,
    },
}

impl Fault {
    /// The stride of bursts where none is given: the lanes of a warp.
    pub(super) const PERIOD: u32 = 32;
    /// The most bits of a burst where none are given: a third of the events flip one bit.
    pub(super) const BURST: u32 = 3;
}

/// How a value is stored where its bits are flipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    /// 32 bits: 0..=22 mantissa, 23..=30 exponent, 31 sign.
    #[default]
    F32,
    /// 16 bits, rounded to nearest even: 0..=6 mantissa, 7..=14 exponent, 15 sign.
    Bf16,
}

/// Bits of a stored value: `"sign"`, `"exponent"`, `"mantissa"`, `"all"`, or `[first, last]`, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bits {
    /// The highest bit.
    Sign,
    /// The bits of the exponent.
    Exponent,
    /// The bits of the mantissa.
    Mantissa,
    /// All.
    #[default]
    All,
    /// From the first to the last, counted from the lowest bit.
    Range(u8, u8),
}

impl Bits {
    const WORDS: [(&str, Self); 4] = [
        ("sign", Self::Sign),
        ("exponent", Self::Exponent),
        ("mantissa", Self::Mantissa),
        ("all", Self::All),
    ];
    const WRONG: &str =
        "`bits` must be \"sign\", \"exponent\", \"mantissa\", \"all\" or a range such as [23, 30]";

    /// The bits that a word names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == name).map(|(_, bits)| *bits)
    }

    /// The first and the last bit in an image.
    pub fn range(self, image: Image) -> (u32, u32) {
        let sign = match image {
            Image::F32 => 31,
            Image::Bf16 => 15,
        };
        match self {
            Self::Sign => (sign, sign),
            Self::Exponent => (sign - 8, sign - 1),
            Self::Mantissa => (0, sign - 9),
            Self::All => (0, sign),
            Self::Range(first, last) => (u32::from(first), u32::from(last)),
        }
    }
}

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self, Self::WORDS.iter().find(|(_, bits)| bits == self)) {
            (_, Some((word, _))) => serializer.serialize_str(word),
            (Self::Range(first, last), None) => [*first, *last].serialize(serializer),
            (_, None) => unreachable!("every other one is a word"),
        }
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Word(String),
            Range([u8; 2]),
        }
        match Raw::deserialize(deserializer).map_err(|_| D::Error::custom(Self::WRONG))? {
            Raw::Range([first, last]) => Ok(Self::Range(first, last)),
            Raw::Word(word) => Self::from_name(&word)
                .ok_or_else(|| D::Error::custom(format!("{}, but is \"{word}\"", Self::WRONG))),
        }
    }
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeadZone { .. } => "dead_zone",
            Self::Saturation { .. } => "saturation",
            Self::Spike { .. } => "spike",
            Self::Bias { .. } => "bias",
            Self::Stuck { .. } => "stuck",
            Self::BitFlip { .. } => "bit_flip",
            Self::BurstFlip { .. } => "burst_flip",
        }
    }

    pub(super) fn scale(self) -> Option<f64> {
        match self {
            Self::DeadZone { scale }
            | Self::Saturation { scale }
            | Self::Spike { scale, .. }
            | Self::Bias { scale } => Some(scale),
            Self::Stuck { .. } | Self::BitFlip { .. } | Self::BurstFlip { .. } => None,
        }
    }

    pub(super) fn with_scale(self, scale: f64) -> Self {
        match self {
            Self::DeadZone { .. } => Self::DeadZone { scale },
            Self::Saturation { .. } => Self::Saturation { scale },
            Self::Spike { rate, .. } => Self::Spike { scale, rate },
            Self::Bias { .. } => Self::Bias { scale },
            Self::Stuck { .. } | Self::BitFlip { .. } | Self::BurstFlip { .. } => self,
        }
    }

    /// The probability of what happens to a value or bit by chance.
    pub(super) fn rate(self) -> Option<f64> {
        match self {
            Self::Spike { rate, .. } | Self::BitFlip { rate, .. } | Self::BurstFlip { rate, .. } => {
                Some(rate)
            }
            _ => None,
        }
    }

    pub(super) fn validate(self) -> Result<(), String> {
        if let Self::Stuck { value } = self {
            let finite = (value as f32).is_finite();
            return if finite { Ok(()) } else { Err(format!("value is {value:?}, but must be finite")) };
        }
        if let Self::BitFlip { bits, image, .. } | Self::BurstFlip { bits, image, .. } = self {
            let ((first, last), (_, sign)) = (bits.range(image), Bits::All.range(image));
            if first > last || last > sign {
                return Err(format!(
                    "bits are [{first}, {last}], but must be [first, last] within [0, {sign}]"
                ));
            }
        }
        if let Self::BurstFlip { period, burst, bits, image, .. } = self {
            let (first, last) = bits.range(image);
            let (most, window) = (last - first + 1, WINDOW as u32);
            if !(1..=window).contains(&period) {
                return Err(format!("period is {period}, but must be a whole number from 1 to {window}"));
            }
            if !(1..=most).contains(&burst) {
                return Err(format!(
                    "burst is {burst}, but must be from 1 to {most}, the bits that can be flipped"
                ));
            }
        }
        self.rate().map_or(Ok(()), |rate| share("rate", rate))
    }
}

/// Perturbs pieces of rows where their channels are faulty.
#[inline(always)]
pub(super) fn strike<'a>(
    fault: Fault,
    sparsity: f64,
    pieces: impl Iterator<Item = Piece<'a>>,
) -> ErrorEnergy {
    let limit = fault.scale().unwrap_or_default() as f32;
    match fault {
        Fault::DeadZone { .. } => in_channels::<false>(
            pieces,
            sparsity,
            Chances::None,
            #[inline(always)]
            |x, _| if x.abs() < limit { 0.0 } else { x },
        ),
        Fault::Saturation { .. } => in_channels::<false>(
            pieces,
            sparsity,
            Chances::None,
            #[inline(always)]
            |x, _| if x.abs() > limit { limit.copysign(x) } else { x },
        ),
        Fault::Bias { .. } => in_channels::<false>(
            pieces,
            sparsity,
            Chances::None,
            #[inline(always)]
            |x, _| x + limit,
        ),
        Fault::Stuck { value } => in_channels::<false>(
            pieces,
            sparsity,
            Chances::None,
            #[inline(always)]
            |x, _| if x.is_nan() { x } else { value as f32 },
        ),
        Fault::Spike { rate, .. } => {
            // The lowest bit is the sign, the others say whether.
            let chance = Chance::of_bits(rate, 31);
            let bound = chance.bound() as u32;
            in_channels::<true>(
                pieces,
                sparsity,
                Chances::Spike(chance),
                #[inline(always)]
                |x, random| {
                    let spike = f32::from_bits(limit.to_bits() | random.word << 31);
                    if random.word >> 1 < bound { x + spike } else { x }
                },
            )
        }
        Fault::BitFlip { rate, bits, image } => {
            let flips = Flips::new(rate, bits, image);
            in_channels::<true>(
                pieces,
                sparsity,
                Chances::Rare(flips.any),
                #[inline(always)]
                |x, random| flips.apply(x, &random),
            )
        }
        Fault::BurstFlip { rate, period, burst, bits, image } => {
            let (first, last) = bits.range(image);
            Bursts { rate, period, burst, first, count: last - first + 1, image }.strike(sparsity, pieces)
        }
    }
}

/// The random word of a value, and its address.
struct Random {
    word: u32,
    key: NoiseKey,
    row: Row,
    element: u64,
}

/// What a value's random word decides.
#[derive(Clone, Copy)]
enum Chances {
    /// Nothing that is known here.
    None,
    /// Its upper bits whether there is a spike, which is settled before.
    Spike(Chance),
    /// Whether the value may change at all: where none of many may, none is looked at.
    Rare(Chance),
}

/// Replaces every value of a faulty channel by `image` of it and of its random word, which is 0 where not `RANDOM`.
#[inline(always)]
fn in_channels<'a, const RANDOM: bool>(
    pieces: impl Iterator<Item = Piece<'a>>,
    sparsity: f64,
    chances: Chances,
    image: impl Fn(f32, Random) -> f32,
) -> ErrorEnergy {
    let in_fault = Chance::new(sparsity);
    let faulty = in_fault.bound();
    let mut lanes = Lanes::new();
    let (mut words, mut channels) = ([0; CHUNK], [0; CHUNK]);
    for Piece { keys, row, element, channel, x } in pieces {
        for (i, part) in x.chunks_mut(CHUNK).enumerate() {
            let first = (i * CHUNK) as u64;
            if RANDOM {
                fill_bits(keys.noise, row, element + first, &mut words[..part.len()]);
            }
            if let Chances::Spike(chance) = chances {
                let second = |i: usize| second_word(keys.noise, row, element + first + i as u64);
                chance.settle(1, &mut words[..part.len()], second);
            }
            if let Chances::Rare(chance) = chances
                && !words[..part.len()].iter().fold(false, |any, word| any | chance.may(*word))
            {
                lanes.compare(part, part);
                continue;
            }
            if sparsity < 1.0 {
                fill_bits(keys.channels, Row::WEIGHT, channel + first, &mut channels[..part.len()]);
                let second = |i: usize| second_word(keys.channels, Row::WEIGHT, channel + first + i as u64);
                in_fault.settle(0, &mut channels[..part.len()], second);
            }
            lanes.replace(
                part,
                #[inline(always)]
                |i, x| {
                    let element = element + first + i as u64;
                    let random = Random { word: words[i], key: keys.noise, row, element };
                    if u64::from(channels[i]) < faulty { image(x, random) } else { x }
                },
            );
        }
    }
    lanes.sum()
}

/// Bits flipped each with the probability `rate`.
struct Flips {
    rate: f64,
    first: u32,
    count: u32,
    image: Image,
    /// That at least one of the bits flips.
    any: Chance,
    /// That one of them flips.
    one: Chance,
}

impl Flips {
    fn new(rate: f64, bits: Bits, image: Image) -> Self {
        let (first, last) = bits.range(image);
        let count = last - first + 1;
        let any = Chance::new(-(f64::from(count) * (-rate).ln_1p()).exp_m1());
        Self { rate, first, count, image, any, one: Chance::new(rate) }
    }

    #[inline(always)]
    fn apply(&self, x: f32, random: &Random) -> f32 {
        if self.any.may(random.word) { self.flip(x, random) } else { x }
    }

    fn flip(&self, x: f32, random: &Random) -> f32 {
        let second = second_word(random.key, random.row, random.element);
        if x.is_nan() || !self.any.does(random.word, || second) {
            return x;
        }
        flipped(x, self.mask(random, second) << self.first, self.image)
    }

    /// The bits to flip, given that there is one: the value's two words say which is the first, words of their own
    /// whether the bits after it flip too.
    fn mask(&self, random: &Random, second: u32) -> u32 {
        let u = (f64::from(random.word) + (f64::from(second) + 0.5) / 4_294_967_296.0) / 4_294_967_296.0;
        let first = ((-u).ln_1p() / (-self.rate).ln_1p()) as u32;
        let first = first.min(self.count - 1);
        let [low, high] = random.key.0;
        let key = NoiseKey([low ^ 0x6A09_E667, high ^ 0xBB67_AE85]);
        let flips = |bit: &u32| {
            let element = random.element.wrapping_mul(32) + u64::from(*bit);
            self.one.does(key.bits(random.row, element), || second_word(key, random.row, element))
        };
        (first + 1..self.count).filter(flips).fold(1 << first, |mask, bit| mask | 1 << bit)
    }
}

/// A value with the bits of `mask` flipped in its image.
pub(super) fn flipped(x: f32, mask: u32, image: Image) -> f32 {
    match image {
        Image::F32 => f32::from_bits(x.to_bits() ^ mask),
        Image::Bf16 => {
            let stored = round_bits(Nearest, 0, x, BF16_DROPPED);
            f32::from_bits(stored.to_bits() ^ mask << BF16_DROPPED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perturb::Perturbation;

    #[test]
    fn rare_flips_of_a_row_are_those_of_each_value() {
        let fault = Fault::BitFlip { rate: 2e-6, bits: Bits::All, image: Image::F32 };
        let flips = Perturbation::Fault { fault, sparsity: 0.5 };
        let (key, row, n) = (NoiseKey([3, 9]), Row { sequence: 1, position: 2 }, 100_000);
        let before: Vec<f32> = (0..n).map(|i| i as f32 - 0.5).collect();
        let (mut whole, mut each) = (before.clone(), before.clone());
        flips.apply(key, row, 5, &mut whole);
        for (element, x) in (5..).zip(&mut each) {
            flips.apply(key, row, element, std::slice::from_mut(x));
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&whole), bits(&each));
        assert!(
            (1..10).contains(&before.iter().zip(&whole).filter(|(a, b)| a.to_bits() != b.to_bits()).count())
        );
    }

    #[test]
    fn at_rates_that_one_word_can_not_tell_from_0_every_bit_is_as_likely_to_flip() {
        let flips = Flips::new(1e-15, Bits::Range(4, 11), Image::F32);
        let (key, row, n) = (NoiseKey([3, 9]), Row { sequence: 1, position: 2 }, 1 << 24);
        let mut bits = [0_u32; 32];
        // Given that the first word is 0, a value is struck with the probability 2^32 · 8 · 1e-15, and else never.
        for element in 0..n {
            let at =
                |word| flips.flip(1.0, &Random { word, key, row, element }).to_bits() ^ 1.0_f32.to_bits();
            let flipped = at(0);
            (0..32).for_each(|bit| bits[bit] += flipped >> bit & 1);
            assert!(element > 1000 || at(1) == 0);
        }
        let expected = n as f64 * 4_294_967_296.0 * 1e-15;
        for (bit, &count) in bits.iter().enumerate() {
            let right = if (4..=11).contains(&bit) { expected } else { 0.0 };
            assert!(
                (f64::from(count) - right).abs() <= 5.0 * right.sqrt(),
                "bit {bit}: {count}, not {right}"
            );
        }
    }
}
