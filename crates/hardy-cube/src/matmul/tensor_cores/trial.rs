//! A few products with edges on all sides, in several links. Every sum in them is exact in f32 whatever its order, so that
//! tensor cores have to agree with a chain to the bit.

use super::*;
use crate::rows::Runs;
use hardy_numerics::Precision;

/// A product of numbers that are the same each time, `[m, k]·[k, n]`, in links that `runs` cuts.
struct Trial {
    sizes: [usize; 3],
    layout: Layout,
    runs: Option<&'static [u32]>,
}

/// One for each tile, the largest with factors that are rounded before, and one that is added to what there is.
const TRIALS: [Trial; 4] = [
    Trial { sizes: [5, 600, 20], layout: Layout::NT, runs: None },
    Trial { sizes: [36, 1100, 68], layout: Layout::NN, runs: None },
    Trial { sizes: [1028, 72, 1032], layout: Layout::NT, runs: None },
    Trial { sizes: [260, 90, 268], layout: Layout::TN, runs: Some(&[0, 1, 17, 17, 50, 90]) },
];

/// Whether tensor cores compute them all.
pub fn is_passed<R: Runtime>(client: &Client<R>) -> bool {
    TRIALS.iter().all(|trial| {
        let found = trial.computed(client, true);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        found.is_some_and(|found| bits(&found) == bits(&trial.wanted()))
    })
}

/// ±(1 + i/512), of which bfloat16 rounds some up, some down and some that are half way. Products of what it rounds to are
/// multiples of 2⁻¹⁴, and a thousand of them stay below 2⁸.
fn number(seed: u32, place: usize) -> f32 {
    let random = (place as u32).wrapping_add(seed << 20).wrapping_mul(2_654_435_761) >> 16;
    let magnitude = 1.0 + (random % 16) as f32 / 512.0;
    if random & 16 == 0 { magnitude } else { -magnitude }
}

impl Trial {
    /// By the device; nothing where it can not.
    fn computed<R: Runtime>(&self, client: &Client<R>, on_tensor_cores: bool) -> Option<Vec<f32>> {
        let ([m, k, n], layout) = (self.sizes, self.layout);
        let upload = |seed, length| {
            let numbers: Vec<f32> = (0..length).map(|place| number(seed, place)).collect();
            client.create_from_slice(f32::as_bytes(&numbers))
        };
        let (a, b) = (upload(1, m * k), upload(2, k * n));
        let table = client.create_from_slice(u32::as_bytes(self.runs.unwrap_or(&[0])));
        let runs = self.runs.map(|runs| Runs { table: &table, count: runs.len() - 1 });
        let (factors, sum) = ([&a, &b], runs.map(|_| upload(3, m * n)));
        let (precision, epilogue) = (Precision::Bf16, Default::default());
        let product = Product { factors, sizes: self.sizes, layout, precision, runs, epilogue };
        let bytes = client.read_one(product.compute(client, sum, on_tensor_cores)).ok()?;
        Some(f32::from_bytes(&bytes)[..m * n].to_vec())
    }

    /// By the host.
    fn wanted(&self) -> Vec<f32> {
        let [m, k, n] = self.sizes;
        let see = |seed, place| f64::from(Precision::Bf16.operand(number(seed, place)));
        let a = |row, term| see(1, if self.layout == Layout::TN { term * m + row } else { row * k + term });
        let b = |term, col| see(2, if self.layout == Layout::NT { col * k + term } else { term * n + col });
        let begin = |place| self.runs.map_or(0.0, |_| f64::from(number(3, place)));
        let element = |place: usize| {
            let (row, col) = (place / n, place % n);
            (begin(place) + (0..k).map(|term| a(row, term) * b(term, col)).sum::<f64>()) as f32
        };
        (0..m * n).map(element).collect()
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::{assert_bits, client};

    #[test]
    fn chains_pass_the_trial_and_tensor_cores_where_they_are_used() {
        let client = client();
        for trial in &TRIALS {
            let name = format!("{:?} {:?}", trial.sizes, trial.layout);
            assert_bits(&trial.computed(&client, false).expect("a product"), &trial.wanted(), &name);
        }
        println!("tensor cores are used: {}", are_used(&client));
    }
}
