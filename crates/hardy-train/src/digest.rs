//! Digests of tensors: XXH3-128 over the bits of their values, so that a step that is made again can be held against the
//! first time. Tensors are cut into chunks that all threads digest, and the digests of the chunks are digested in their
//! order: the result does not depend on how many threads there are.

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

/// Elements of a chunk.
const CHUNK: usize = 1 << 16;

/// The digest of a tensor's values.
pub fn of_values(x: &[f32]) -> u128 {
    let chunks: Vec<u128> = x.par_chunks(CHUNK).map(of_chunk).collect();
    of_digests(&chunks)
}

#[cfg(target_endian = "little")]
fn of_chunk(x: &[f32]) -> u128 {
    xxh3_128(bytemuck::cast_slice(x))
}

#[cfg(not(target_endian = "little"))]
fn of_chunk(x: &[f32]) -> u128 {
    xxh3_128(&x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// The digest of several in their order.
pub fn of_digests(digests: &[u128]) -> u128 {
    xxh3_128(&digests.iter().flat_map(|digest| digest.to_le_bytes()).collect::<Vec<u8>>())
}

/// As 32 hexadecimal digits.
pub fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

/// The first 8 of these digits of every digest, one after another: enough to tell which tensor differs.
pub fn short_hex(digests: &[u128]) -> String {
    digests.iter().map(|digest| format!("{:08x}", (digest >> 96) as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_and_the_order_count_and_threads_do_not() {
        let x: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
        let digest = of_values(&x);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| of_values(&x)), digest, "{threads}");
        }
        let mut other = x.clone();
        other[199_999] = f32::from_bits(other[199_999].to_bits() ^ 1);
        assert_ne!(of_values(&other), digest);
        assert_ne!(of_values(&[0.0]), of_values(&[-0.0]));
        assert_ne!(of_digests(&[1, 2]), of_digests(&[2, 1]));
    }

    #[test]
    fn digests_do_not_change_from_version_to_version() {
        assert_eq!(hex(of_values(&[1.0, -2.5, 0.0])), "799d20e5c90e92f494afa4bf6a3c9571");
        assert_eq!(short_hex(&[1 << 96, 0xabcd_ef01_u128 << 96]), "00000001abcdef01");
    }
}
