//! The cost of number formats: `fake_quantize` in place beside a plain copy of the same 256 MB, in the same run.
//!
//! `cargo bench -p hardy-numerics --bench formats` prints ns per element and GB/s, counting what is read and written.

use hardy_numerics::{Format, simd};
use rayon::prelude::*;
use std::time::Instant;

const ELEMENTS: usize = 64 << 20;
const WIDTH: usize = 4096;

fn values() -> Vec<f32> {
    (0..ELEMENTS as u32).map(|i| i.wrapping_mul(2_654_435_761) as i32 as f32 * 1e-9).collect()
}

/// The best of 5 runs, in ns per element; `prepare` is not timed.
fn best<T>(mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> f64 {
    let mut time = || {
        let prepared = prepare();
        let start = Instant::now();
        run(prepared);
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| time()).fold(f64::INFINITY, f64::min) * 1e9 / ELEMENTS as f64
}

fn copy(from: &[f32], to: &mut [f32]) {
    to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16)).for_each(|(to, from)| to.copy_from_slice(from));
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (from, mut x) = (values(), values());
    let (simd, threads) = (simd::level(), rayon::current_num_threads());
    println!("{ELEMENTS} elements, {simd}, {threads} threads");
    let plain = best(|| (), |()| copy(&from, &mut x));
    println!("{:14} {plain:.3} ns per element {:6.1} GB/s", "plain copy", 8.0 / plain);
    for format in Format::ALL {
        copy(&from, &mut x);
        let ns = best(|| (), |()| format.fake_quantize(&mut x, WIDTH));
        println!(
            "{:14} {ns:.3} ns per element {:6.1} GB/s {:4.0} % of the copy",
            format.name(),
            8.0 / ns,
            100.0 * plain / ns
        );
    }
}
