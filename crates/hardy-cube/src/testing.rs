//! A device to test on, and numbers to test with: CUDA's where the feature is on, else Vulkan's, which may be a CPU's.

use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::{NoiseKey, Row};

use crate::device::Client;

#[cfg(feature = "cuda")]
pub type Device = cubecl::cuda::CudaRuntime;
#[cfg(not(feature = "cuda"))]
pub type Device = cubecl::wgpu::WgpuRuntime;

pub const KEY: NoiseKey = NoiseKey([0x2ab8_13ca, 0xe5e0_53d3]);

pub fn client() -> Client<Device> {
    Device::client(&Default::default())
}

pub fn upload(client: &Client<Device>, x: &[f32]) -> Handle {
    client.create_from_slice(f32::as_bytes(x))
}

pub fn upload_words(client: &Client<Device>, x: &[u32]) -> Handle {
    client.create_from_slice(u32::as_bytes(x))
}

pub fn download(client: &Client<Device>, x: Handle, length: usize) -> Vec<f32> {
    f32::from_bytes(&client.read_one_unchecked(x))[..length].to_vec()
}

pub fn download_words(client: &Client<Device>, x: Handle, length: usize) -> Vec<u32> {
    u32::from_bytes(&client.read_one_unchecked(x))[..length].to_vec()
}

/// Numbers of both signs around 1, the same for one seed.
pub fn numbers(seed: u32, length: usize) -> Vec<f32> {
    let mut x = vec![0.0; length];
    hardy_numerics::fill_gaussian(NoiseKey([seed, 7]), Row::WEIGHT, 0, &mut x);
    x
}

/// Rows of sequences beyond 32 bits, and the table of them; every third one does not count.
pub fn addresses(rows: usize) -> (Vec<Row>, Vec<u32>) {
    let row = |i: usize| Row { sequence: (5 << 32) + i as u64 / 7, position: (i % 7) as u32 };
    let words = |i: usize| {
        let Row { sequence, position } = row(i);
        [position, sequence as u32, (sequence >> 32) as u32, u32::from(i % 3 != 2)]
    };
    ((0..rows).map(row).collect(), (0..rows).flat_map(words).collect())
}

/// Asserts that two slices are equal to the bit, NaN being NaN.
#[track_caller]
pub fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(
            same,
            "{what}: element {i} is {got:e} ({:#x}), not {want:e} ({:#x})",
            got.to_bits(),
            want.to_bits()
        );
    }
}

/// The largest difference, over the largest magnitude of what is wanted.
#[track_caller]
pub fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let apart = got.iter().zip(want).fold(0.0_f32, |max, (a, b)| {
        let apart = (a - b).abs();
        if apart.is_nan() { f32::INFINITY } else { max.max(apart) }
    });
    apart / largest.max(f32::MIN_POSITIVE)
}

/// Whether the device's products are chains of fused multiply-adds, so that they equal the CPU's to the bit.
pub fn fused(client: &Client<Device>) -> bool {
    crate::device::arithmetic(client).fused
}

/// The CPU's sums, written down plainly.
pub mod plain {
    /// A term of a chain, as a device with or without a fused multiply-add computes it.
    pub fn mul_add(fused: bool, a: f32, b: f32, c: f32) -> f32 {
        if fused { a.mul_add(b, c) } else { a * b + c }
    }

    /// Σ a·b: chains of 512 terms, added in their order to `begin`, where there is one.
    pub fn chain(fused: bool, terms: &[(f32, f32)], begin: Option<f32>) -> f32 {
        let links =
            terms.chunks(512).map(|link| link.iter().fold(0.0, |sum, &(a, b)| mul_add(fused, a, b, sum)));
        links.fold(begin, |sum, link| Some(sum.map_or(link, |sum| sum + link))).unwrap_or_default()
    }

    /// A sum in sixteen lanes and what is left over.
    pub fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 16];
        let (whole, rest) = x.as_chunks::<16>();
        for chunk in whole {
            (0..16).for_each(|lane| lanes[lane] += chunk[lane]);
        }
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|lane| lanes[lane] += lanes[lane + half]);
        }
        if rest.is_empty() { lanes[0] } else { lanes[0] + rest.iter().copied().reduce(|a, b| a + b).unwrap() }
    }

    /// A dot product in sixteen lanes.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let products: Vec<f32> = a.iter().zip(b).map(|(a, b)| a * b).collect();
        sum(&products)
    }

    /// The largest number that is none of NaN.
    pub fn largest(x: &[f32]) -> f32 {
        x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
    }

    /// σ(x).
    pub fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + hardy_numerics::math::exp(-x))
    }
}
