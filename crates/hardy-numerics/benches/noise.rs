//! The cost of noise: `relative_gaussian` in place beside a plain copy of the same values.
//!
//! `cargo bench -p hardy-numerics` prints a table in ns per element, then divan's own.

use divan::Bencher;
use divan::counter::ItemsCount;
use hardy_numerics::{Bits, Fault, Image, NoiseKey, Perturbation, Row, fill_gaussian, fill_uniform, simd};
use rayon::prelude::*;
use std::time::Instant;

const ELEMENTS: usize = 16 << 20;
const WIDTH: usize = 128;
const FIVE_PERCENT: Perturbation = Perturbation::RelativeGaussian { scale: 0.05 };
const KEY: NoiseKey = NoiseKey([1, 2]);

fn values() -> Vec<f32> {
    (0..ELEMENTS).map(|i| (i % 1000) as f32 - 499.5).collect()
}

fn rows() -> Vec<Row> {
    (0..ELEMENTS / WIDTH).map(|i| Row { sequence: i as u64 / 128, position: i as u32 % 128 }).collect()
}

fn copy(from: &[f32], to: &mut [f32]) {
    to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16)).for_each(|(to, from)| to.copy_from_slice(from));
}

#[divan::bench]
fn plain_copy(bencher: Bencher) {
    let (from, mut to) = (values(), vec![0.0; ELEMENTS]);
    bencher.counter(ItemsCount::new(ELEMENTS)).bench_local(|| copy(&from, &mut to));
}

#[divan::bench]
fn relative_gaussian_flat(bencher: Bencher) {
    let mut x = values();
    bencher.counter(ItemsCount::new(ELEMENTS)).bench_local(|| FIVE_PERCENT.apply_flat(KEY, WIDTH, &mut x));
}

#[divan::bench]
fn relative_gaussian_rows_of_128(bencher: Bencher) {
    let (rows, mut x) = (rows(), values());
    bencher
        .counter(ItemsCount::new(ELEMENTS))
        .bench_local(|| FIVE_PERCENT.apply_rows(KEY, &rows, 0, WIDTH, &mut x));
}

#[divan::bench]
fn relative_gaussian_one_thread(bencher: Bencher) {
    let mut x = values();
    bencher
        .counter(ItemsCount::new(ELEMENTS))
        .bench_local(|| FIVE_PERCENT.apply(KEY, Row::WEIGHT, 0, &mut x));
}

#[divan::bench]
fn fill_gaussian_one_thread(bencher: Bencher) {
    let mut x = values();
    bencher.counter(ItemsCount::new(ELEMENTS)).bench_local(|| fill_gaussian(KEY, Row::WEIGHT, 0, &mut x));
}

/// The best of 10 runs, in ns per element.
fn best(mut run: impl FnMut()) -> f64 {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..10).map(|_| time(&mut run)).fold(f64::INFINITY, f64::min) * 1e9 / ELEMENTS as f64
}

fn print_ns_per_element() {
    let (rows, from, mut x) = (rows(), values(), values());
    println!(
        "{ELEMENTS} elements, {}, {} threads, ns per element",
        simd::level(),
        rayon::current_num_threads()
    );
    println!("  plain copy                    {:.3}", best(|| copy(&from, &mut x)));
    println!(
        "  relative_gaussian, flat       {:.3}",
        best(|| _ = FIVE_PERCENT.apply_flat(KEY, WIDTH, &mut x))
    );
    let in_rows = best(|| _ = FIVE_PERCENT.apply_rows(KEY, &rows, 0, WIDTH, &mut x));
    println!("  relative_gaussian, rows of {WIDTH} {in_rows:.3}");
    let one = best(|| _ = FIVE_PERCENT.apply(KEY, Row::WEIGHT, 0, &mut x));
    println!("  relative_gaussian, one thread {one:.3}");
    let flips = Fault::BitFlip { rate: 1e-3, bits: Bits::Mantissa, image: Image::F32 };
    let flips = Perturbation::Fault { fault: flips, sparsity: 1.0 };
    println!("  flipped bits, one thread      {:.3}", best(|| _ = flips.apply(KEY, Row::WEIGHT, 0, &mut x)));
    let few = Perturbation::Fault { fault: Fault::Spike { scale: 0.5, rate: 0.01 }, sparsity: 0.2 };
    println!("  spikes in some channels       {:.3}", best(|| _ = few.apply(KEY, Row::WEIGHT, 0, &mut x)));
    println!("  fill_uniform, one thread      {:.3}", best(|| fill_uniform(KEY, Row::WEIGHT, 0, &mut x)));
    let cut = Perturbation::Truncation { scale: 0.01 };
    println!("  truncation, one thread        {:.3}", best(|| _ = cut.apply(KEY, Row::WEIGHT, 0, &mut x)));
    println!("  fill_gaussian, one thread     {:.3}", best(|| fill_gaussian(KEY, Row::WEIGHT, 0, &mut x)));
}

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        print_ns_per_element();
    }
    divan::main();
}
