//! A proposal that nothing uses: a definition of Gaussian noise with half of the instructions, beside the one in use. Every word
//! of Philox4x32-7 becomes two values instead of one: its upper 20 bits a radius, its lower 12 an angle.
//!
//! `cargo bench -p hardy-numerics --bench shorter` prints the time of both in ns per value, on one thread and in the
//! nearest cache, and for both how many standard errors moments, tails, correlations and joint frequencies are off.

use hardy_numerics::{NoiseKey, Row, fill_gaussian, simd};
use std::{f32::consts::LN_2, f32::consts::SQRT_2, hint::black_box, time::Instant};

/// Values of a group: 8 blocks of 4 words of two values.
const GROUP: usize = 64;
/// What is filled at a time, in the nearest cache.
const PART: usize = 1024;
/// Values of a test.
const SAMPLE: usize = 1 << 26;

/// The generator as it is in use, but for the rounds.
#[path = "."]
mod seven {
    pub const ROUNDS: usize = 7;
    pub const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    pub const BLOCKS: usize = 8;
    pub type Words = [[u32; 2 * BLOCKS]; 2];

    #[cfg(target_arch = "x86_64")]
    #[path = "../src/philox/x86.rs"]
    pub mod x86;

    pub fn round_keys(key: [u32; 2]) -> [[u32; 2]; ROUNDS] {
        let of = |round: usize, i: usize| {
            key[i].wrapping_add([0x9E37_79B9_u32, 0xBB67_AE85][i].wrapping_mul(round as u32))
        };
        std::array::from_fn(|round| [of(round, 0), of(round, 1)])
    }
}

/// `out[i]` = the proposed value of element `i` of a row; `out` is whole groups.
fn fill_short(key: NoiseKey, row: Row, out: &mut [f32]) {
    const GROUPS: usize = 8;
    let mut words = [[[0; 16]; 2]; GROUPS];
    for (part, out) in out.chunks_mut(GROUPS * GROUP).enumerate() {
        let words = &mut words[..out.len() / GROUP];
        let counter = |group: usize| {
            let block = ((part * GROUPS + group) * 8) as u32;
            [block, row.position, row.sequence as u32, (row.sequence >> 32) as u32]
        };
        let counters: [[u32; 4]; GROUPS] = std::array::from_fn(counter);
        let counters = &counters[..words.len()];
        match simd::level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has this level.
            "avx512" => unsafe { seven::x86::fill_avx512(key.0, counters, words) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has this level.
            "avx2" => unsafe { seven::x86::fill_avx2(key.0, counters, words) },
            level => panic!("the comparison is of avx512 and avx2, not of {level}"),
        }
        simd::dispatch(
            #[inline(always)]
            || normal_values(words, out),
        );
    }
}

#[inline(always)]
fn normal_values(words: &[[[u32; 16]; 2]], out: &mut [f32]) {
    let mut radii = [[0.0; 32]; 8];
    for (radii, words) in radii.iter_mut().zip(words) {
        for (radius, word) in radii.iter_mut().zip(words.as_flattened()) {
            *radius = radius_of(*word);
        }
    }
    for ((out, words), radii) in out.chunks_exact_mut(GROUP).zip(words).zip(&radii) {
        for (half, words) in words.iter().enumerate() {
            let (first, second) = out[32 * half..][..32].split_at_mut(16);
            for i in 0..16 {
                (first[i], second[i]) = turn(radii[16 * half + i], words[i]);
            }
        }
    }
}

/// √(−2 ln u) with u = (upper 20 bits + ½)·2⁻²⁰, the logarithm to 1e-5.
#[inline(always)]
fn radius_of(word: u32) -> f32 {
    const UNIT: f32 = 1.0 / 1_048_576.0;
    const HALF_SQRT_2: u32 = (0.5 * SQRT_2).to_bits();
    let u = ((word >> 12) as i32 as f32).mul_add(UNIT, 0.5 * UNIT);
    let n = (u.to_bits().wrapping_sub(HALF_SQRT_2) as i32) >> 23;
    let f = f32::from_bits(u.to_bits().wrapping_sub((n << 23) as u32)) - 1.0;
    const LOG: [f32; 6] =
        [-0.146_625_28, 0.221_687_73, -0.253_591_4, 0.332_482_7, -0.499_914_05, 1.000_005_5];
    let p = LOG.iter().fold(0.0_f32, |p, c| p.mul_add(f, *c));
    (-2.0 * (n as f32).mul_add(LN_2, p * f)).sqrt()
}

/// r·(cos 2πt, sin 2πt) with t = (lower 12 bits + ½)·2⁻¹², to 1e-5.
#[inline(always)]
fn turn(r: f32, word: u32) -> (f32, f32) {
    // The lower 11 of them in the highest bits, with the half: at most a quarter turn; the highest is half a turn.
    let t = (word << 21 | 1 << 20) as i32 as f32 * (1.0 / 8_589_934_592.0);
    let z = t * t;
    const SIN: [f32; 4] = [-71.614_71, 81.408_67, -41.339_26, 6.283_180_7];
    const COS: [f32; 4] = [-78.216_13, 64.660_54, -19.735_752, 0.999_993_3];
    let sin = SIN.iter().fold(0.0_f32, |s, c| s.mul_add(z, *c)) * t;
    let cos = COS.iter().fold(0.0_f32, |s, c| s.mul_add(z, *c));
    let r = f32::from_bits(r.to_bits() ^ (word << 20 & 1 << 31));
    (r * cos, r * sin)
}

type Fill = fn(NoiseKey, Row, &mut [f32]);

fn fill_now(key: NoiseKey, row: Row, out: &mut [f32]) {
    fill_gaussian(key, row, 0, out);
}

/// The best of 20 runs, in ns per value.
fn time(fill: Fill) -> f64 {
    const PARTS: u32 = 2000;
    let mut out = [0.0; PART];
    let mut run = || {
        let start = Instant::now();
        for position in 0..PARTS {
            fill(NoiseKey([1, 2]), Row { sequence: 3, position }, black_box(&mut out));
        }
        start.elapsed().as_secs_f64()
    };
    (0..20).map(|_| run()).fold(f64::INFINITY, f64::min) * 1e9 / (f64::from(PARTS) * PART as f64)
}

/// A whole sample in rows of [`PART`].
fn sample(fill: Fill, key: NoiseKey, sequence: u64, first_position: u32) -> Vec<f32> {
    let mut out = vec![0.0; SAMPLE];
    for (position, row) in (first_position..).zip(out.chunks_mut(PART)) {
        fill(key, Row { sequence, position }, row);
    }
    out
}

/// Of every test the name, and how many standard errors its number is off.
fn tests(fill: Fill) -> Vec<(String, f64)> {
    let key = NoiseKey::new(0, "proposal", 0, "model.layers.0");
    let (x, n) = (sample(fill, key, 7, 0), SAMPLE as f64);
    let mut all = Vec::new();
    for (power, (mean, variance)) in
        (1..).zip([(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0), (0.0, 945.0), (15.0, 10_170.0_f64)])
    {
        let sum: f64 = x.iter().map(|&x| f64::from(x).powi(power)).sum();
        all.push((format!("moment {power}"), (sum / n - mean) / (variance / n).sqrt()));
    }
    for (sigma, tail) in [(3.0, 2.699_796e-3), (4.0, 6.334_248e-5), (5.0, 5.733_031e-7)] {
        let count = x.iter().filter(|x| x.abs() > sigma).count() as f64;
        all.push((format!("beyond {sigma} sigma"), (count - n * tail) / (n * tail).sqrt()));
    }
    all.push(("256 equal parts".into(), frequencies(x.iter().map(|x| part(*x, 256)), 256)));
    for lag in [1, 2, 3, 4, 8, 16, 32, 64, PART] {
        let pairs = || x.iter().zip(&x[lag..]);
        let joint = pairs().map(|(a, b)| 16 * part(*a, 16) + part(*b, 16));
        all.push((format!("neighbour {lag}, 16 x 16 parts"), frequencies(joint, 256)));
        correlations(&format!("neighbour {lag}"), &pairs(), &mut all);
    }
    let others = [
        ("position", sample(fill, key, 7, 1)),
        ("sequence", sample(fill, key, 8, 0)),
        ("step", sample(fill, NoiseKey::new(0, "proposal", 1, "model.layers.0"), 7, 0)),
        ("key", sample(fill, NoiseKey([key.0[0] ^ 1, key.0[1]]), 7, 0)),
    ];
    for (name, other) in others {
        correlations(&format!("next {name}"), &x.iter().zip(&other), &mut all);
    }
    all
}

/// Of values and of their squares.
fn correlations<'a>(
    name: &str,
    pairs: &(impl Iterator<Item = (&'a f32, &'a f32)> + Clone),
    all: &mut Vec<(String, f64)>,
) {
    for power in [1, 2] {
        let centred = |x: f32| f64::from(x).powi(power) - f64::from(power - 1);
        let (mut sum, mut count) = (0.0, 0.0_f64);
        pairs.clone().for_each(|(a, b)| (sum, count) = (sum + centred(*a) * centred(*b), count + 1.0));
        all.push((format!("{name}, correlation of powers {power}"), sum / count.sqrt() / f64::from(power)));
    }
}

/// Which of so many equally probable parts of the line `x` lies in.
fn part(x: f32, parts: usize) -> usize {
    ((distribution(f64::from(x)) * parts as f64) as usize).min(parts - 1)
}

/// The normal distribution function to 1e-7: M. Abramowitz, I. A. Stegun, "Handbook of Mathematical Functions", 26.2.17.
fn distribution(x: f64) -> f64 {
    let t = 1.0 / 0.231_641_9_f64.mul_add(x.abs(), 1.0);
    let sum = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let tail = sum.iter().fold(0.0, |p: f64, c| p.mul_add(t, *c)) * t * (-0.5 * x * x).exp()
        / std::f64::consts::TAU.sqrt();
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// How far χ² of equally probable parts is from its mean, in its standard deviations.
fn frequencies(parts: impl Iterator<Item = usize>, count: usize) -> f64 {
    let mut found = vec![0.0_f64; count];
    parts.for_each(|part| found[part] += 1.0);
    let expected = found.iter().sum::<f64>() / count as f64;
    let chi: f64 = found.iter().map(|found| (found - expected).powi(2) / expected).sum();
    let freedom = (count - 1) as f64;
    (chi - freedom) / (2.0 * freedom).sqrt()
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let both: [(&str, Fill); 2] = [("in use", fill_now), ("proposed", fill_short)];
    for (name, fill) in both {
        println!("{name:9} {:.3} ns per value, {}, one thread", time(fill), simd::level());
    }
    let [now, short] = both.map(|(_, fill)| tests(fill));
    println!("standard errors, {SAMPLE} values           in use  proposed");
    for ((name, now), (_, short)) in now.iter().zip(&short) {
        println!("  {name:42} {now:7.2} {short:9.2}");
    }
    let worst = |all: &[(String, f64)]| all.iter().map(|(_, z)| z.abs()).fold(0.0, f64::max);
    println!("  {:42} {:7.2} {:9.2}", "the largest", worst(&now), worst(&short));
}
