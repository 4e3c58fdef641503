//! What a device can do, found by trying, and how work is laid out on it.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::exact::{Arithmetic, Exact, ExactLaunch};

/// Threads of a cube, where a kernel asks for no other number.
pub const THREADS: u32 = 256;
/// Cubes along the first axis; every device allows 65,535.
const CUBES: u32 = 32_768;

/// A client that launches kernels.
pub type Client<R> = ComputeClient<R>;

/// One thread for each of `count` things, and the rest of the last cube.
pub(crate) fn threads(count: usize) -> (CubeCount, CubeDim) {
    (cubes(count.div_ceil(THREADS as usize)), CubeDim::new_1d(THREADS))
}

/// At least `count` cubes; a kernel returns where its `CUBE_POS` is beyond.
///
/// # Panics
/// If there are more than 2³⁰.
pub(crate) fn cubes(count: usize) -> CubeCount {
    assert!(count <= 1 << 30, "{count} cubes are too many");
    let count = count.max(1) as u32;
    CubeCount::Static(count.min(CUBES), count.div_ceil(CUBES), 1)
}

/// The whole of a handle that holds `length` elements of 4 bytes.
///
/// # Panics
/// If it is shorter.
pub(crate) fn array<R: Runtime>(handle: &Handle, length: usize) -> ArrayArg<R> {
    assert!(
        handle.size_in_used() >= 4 * length as u64,
        "a handle of {} bytes holds no {length} elements",
        handle.size_in_used()
    );
    // SAFETY: the length was checked.
    unsafe { ArrayArg::from_raw_parts(handle.clone(), length) }
}

/// Room for `length` numbers or words.
pub fn empty<R: Runtime>(client: &Client<R>, length: usize) -> Handle {
    client.empty(4 * length.max(1))
}

/// `x`, of `length` elements, to be changed in place: itself where nobody else has it, else a copy.
pub(crate) fn owned<R: Runtime>(client: &Client<R>, x: Handle, length: usize) -> Handle {
    if x.can_mut() {
        return x;
    }
    let out = empty(client, length);
    let (count, dim) = threads(length);
    copy::launch(client, count, dim, array(&x, length), array(&out, length));
    out
}

#[cube(launch)]
fn copy(x: &Array<f32>, out: &mut Array<f32>) {
    if ABSOLUTE_POS < x.len() {
        out[ABSOLUTE_POS] = x[ABSOLUTE_POS];
    }
}

/// Exact arithmetic on the device of `client`.
pub(crate) fn exact<R: Runtime>(client: &Client<R>) -> ExactLaunch<R> {
    ExactLaunch::new(0, arithmetic(client))
}

/// What was found by trying, once for each kind of runtime.
pub(crate) struct Found<T>(OnceLock<Mutex<HashMap<TypeId, T>>>);

impl<T: Copy> Found<T> {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// What is known of the runtime `R`, or what `find` finds.
    pub fn of<R: 'static>(&self, find: impl FnOnce() -> T) -> T {
        let all = || self.0.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let known = all().get(&TypeId::of::<R>()).copied();
        known.unwrap_or_else(|| {
            let found = find();
            all().insert(TypeId::of::<R>(), found);
            found
        })
    }
}

/// What the device's own arithmetic is worth, tried by numbers whose rounded results are known.
pub fn arithmetic<R: Runtime>(client: &Client<R>) -> Arithmetic {
    static FOUND: Found<Arithmetic> = Found::new();
    FOUND.of::<R>(|| try_arithmetic(client))
}

/// Numbers that a probe tries.
const TRIES: usize = 4096;

fn try_arithmetic<R: Runtime>(client: &Client<R>) -> Arithmetic {
    let number =
        |i: usize| f32::from_bits(0x3F00_0000 + (i as u32).wrapping_mul(2_654_435_761) % 0x0180_0000);
    let x: Vec<f32> = (0..3 * TRIES).map(number).collect();
    let out = empty(client, 3 * TRIES);
    let input = client.create_from_slice(f32::as_bytes(&x));
    let (count, dim) = threads(TRIES);
    try_operations::launch(client, count, dim, array(&input, 3 * TRIES), array(&out, 3 * TRIES));
    let bytes = client.read_one_unchecked(out);
    let found = f32::from_bytes(&bytes);
    let at = |i: usize| (x[3 * i], x[3 * i + 1], x[3 * i + 2], &found[3 * i..3 * i + 3]);
    let fused = |i| matches!(at(i), (a, b, c, out) if out[0] == a.mul_add(b, -c));
    let rounded = |i| matches!(at(i), (a, b, _, out) if out[1] == a / b && out[2] == a.sqrt());
    Arithmetic { fused: (0..TRIES).all(fused), rounded: (0..TRIES).all(rounded) }
}

#[cube(launch)]
fn try_operations(x: &Array<f32>, out: &mut Array<f32>) {
    let i = ABSOLUTE_POS;
    if 3 * i < x.len() {
        let a = x[3 * i];
        let b = x[3 * i + 1];
        out[3 * i] = fma(a, b, -x[3 * i + 2]);
        out[3 * i + 1] = a / b;
        out[3 * i + 2] = a.sqrt();
    }
}

#[cube(launch)]
pub(crate) fn operations(e: &Exact, x: &Array<f32>, out: &mut Array<f32>) {
    let i = ABSOLUTE_POS;
    if 3 * i < x.len() {
        let a = x[3 * i];
        let b = x[3 * i + 1];
        out[3 * i] = e.fma(a, b, x[3 * i + 2]);
        out[3 * i + 1] = e.quotient(a, b);
        out[3 * i + 2] = e.root(a);
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;

    /// Numbers of all magnitudes, and what is none.
    fn all_kinds() -> Vec<f32> {
        let special =
            [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE];
        let tiny = [1, 2, 3, 0x7F_FFFF, 0x40_0000].map(f32::from_bits);
        let any = (0..30_000_u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761).wrapping_add(i >> 3)));
        special.into_iter().chain(tiny).chain(any).collect()
    }

    #[test]
    fn quotients_and_roots_are_rounded_to_nearest() {
        let client = client();
        let kinds = all_kinds();
        let triples: Vec<f32> =
            (0..kinds.len()).flat_map(|i| [kinds[i], kinds[(7 * i + 3) % kinds.len()], 1.0]).collect();
        for rounded in [arithmetic(&client).rounded, false] {
            let e = ExactLaunch::new(0, Arithmetic { rounded, ..arithmetic(&client) });
            let (x, out) = (upload(&client, &triples), empty(&client, triples.len()));
            let (count, dim) = threads(kinds.len());
            let length = triples.len();
            operations::launch(&client, count, dim, e, array(&x, length), array(&out, length));
            let found = download(&client, out, length);
            let of = |part: usize| found.iter().skip(part).step_by(3).copied().collect::<Vec<_>>();
            let pairs = triples.chunks(3).map(|x| (x[0], x[1]));
            let quotients: Vec<f32> = pairs.clone().map(|(a, b)| a / b).collect();
            assert_bits(&of(1), &quotients, "quotients");
            let roots: Vec<f32> = pairs.map(|(a, _)| a.sqrt()).collect();
            assert_bits(&of(2), &roots, "roots");
        }
    }

    #[test]
    fn fused_multiply_adds_are_rounded_once() {
        let client = client();
        let triples: Vec<f32> = numbers(1, 300_000);
        let length = triples.len();
        for fused in [arithmetic(&client).fused, false] {
            let e = ExactLaunch::new(0, Arithmetic { fused, ..arithmetic(&client) });
            let (x, out) = (upload(&client, &triples), empty(&client, length));
            let (count, dim) = threads(length / 3);
            operations::launch(&client, count, dim, e, array(&x, length), array(&out, length));
            let found = download(&client, out, length);
            let apart =
                found.chunks(3).zip(triples.chunks(3)).filter(|(out, x)| out[0] != x[0].mul_add(x[1], x[2]));
            assert_eq!(apart.count(), 0);
        }
    }
}
