use super::*;
use crate::perturb::perturb_rows;
use crate::rule::Error;
use crate::{device::empty, tally, testing::*};
use hardy_numerics::{Keys, NoiseKey, Perturbation};

/// The factors of a product `[m, k]·[k, n]` as `layout` stores them.
fn element(x: &[f32], [rows, cols]: [usize; 2], row: usize, col: usize, turned: bool) -> f32 {
    if turned { x[col * rows + row] } else { x[row * cols + col] }
}

#[test]
fn every_element_is_its_chain_whatever_the_shape_and_layout() {
    let client = client();
    let fused = fused(&client);
    for [m, k, n] in
        [[1, 5, 3], [7, 700, 40], [70, 33, 130], [65, 1100, 66], [300, 40, 290], [3, 1536, 20], [2, 0, 3]]
    {
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        for (layout, precision) in
            [Layout::NN, Layout::NT, Layout::TN].into_iter().flat_map(|x| Precision::ALL.map(|y| (x, y)))
        {
            let terms = |i: usize, j: usize| -> Vec<(f32, f32)> {
                let a = |term| element(&a, [m, k], i, term, layout == Layout::TN);
                let b = |term| element(&b, [k, n], term, j, layout == Layout::NT);
                (0..k).map(|term| (precision.operand(a(term)), precision.operand(b(term)))).collect()
            };
            let wanted: Vec<f32> =
                (0..m * n).map(|i| plain::chain(fused, &terms(i / n, i % n), None)).collect();
            let [a, b] = [&a, &b].map(|x| upload_some(&client, x));
            let product = chained([&a, &b], [m, k, n], (layout, precision), None);
            let out = product.compute(&client, None, false);
            let name = format!("[{m}, {k}, {n}] {layout:?} {precision}");
            assert_bits(&download(&client, out, m * n), &wanted, &name);
        }
    }
}

#[test]
fn links_end_where_the_table_says_and_are_added_to_a_sum_in_their_order() {
    let client = client();
    let fused = fused(&client);
    for ([m, k, n], cuts) in [
        ([5, 40, 3], vec![0, 40]),
        ([70, 600, 33], vec![0, 1, 17, 17, 529, 600]),
        ([300, 90, 290], vec![0, 31, 90]),
        ([2, 0, 3], vec![0]),
    ] {
        let (a, b, begin) = (numbers(1, m * k), numbers(2, k * n), numbers(3, m * n));
        for (add, precision) in [false, true].into_iter().flat_map(|x| Precision::ALL.map(|y| (x, y))) {
            let element = |i: usize| {
                let link = |run: &[u32]| {
                    let terms =
                        (run[0] as usize..run[1] as usize).map(|t| (a[t * m + i / n], b[t * n + i % n]));
                    let see = |x: f32| precision.operand(x);
                    terms.fold(0.0, |sum, (a, b)| plain::mul_add(fused, see(a), see(b), sum))
                };
                let begin = add.then(|| begin[i]);
                let links = cuts.windows(2).map(link);
                links.fold(begin, |sum, link| Some(sum.map_or(link, |sum| sum + link))).unwrap_or_default()
            };
            let wanted: Vec<f32> = (0..m * n).map(element).collect();
            let [x, y] = [&a, &b].map(|x| upload_some(&client, x));
            let table = upload_words(&client, &cuts);
            let runs = Runs { table: &table, count: cuts.len() - 1 };
            let sum = add.then(|| upload(&client, &begin));
            let product = chained([&x, &y], [m, k, n], (Layout::TN, precision), Some(runs));
            let out = product.compute(&client, sum, false);
            assert_bits(&download(&client, out, m * n), &wanted, &format!("[{m}, {k}, {n}] {precision}"));
        }
    }
}

/// A product without an end.
fn chained<'a>(
    factors: [&'a Handle; 2],
    sizes: [usize; 3],
    (layout, precision): (Layout, Precision),
    runs: Option<Runs<'a>>,
) -> Product<'a> {
    Product { factors, sizes, layout, precision, runs, epilogue: Epilogue::default() }
}

fn upload_some(client: &Client<Device>, x: &[f32]) -> Handle {
    if x.is_empty() { empty(client, 1) } else { upload(client, x) }
}

#[test]
fn a_row_does_not_depend_on_how_many_there_are() {
    let client = client();
    let ([k, n], x) = ([520, 300], numbers(1, 700 * 520));
    let w = upload(&client, &numbers(2, k * n));
    let run = |rows: usize, precision| {
        let x = upload(&client, &x[..rows * k]);
        let end = Epilogue::default();
        download(&client, matmul(&client, [&x, &w], [rows, k, n], Layout::NT, precision, end), rows * n)
    };
    for precision in Precision::ALL {
        let all = run(700, precision);
        for rows in [1, 2, 16, 17, 65, 257] {
            assert_bits(&run(rows, precision), &all[..rows * n], &format!("{rows} rows in {precision}"));
        }
    }
}

#[test]
fn a_bias_and_noise_as_a_product_is_stored_are_those_of_passes_after_it_to_the_bit() {
    let client = client();
    let keys = Keys { noise: KEY, channels: NoiseKey([11, 12]) };
    let error = Error { what: Perturbation::RelativeGaussian { scale: 0.05 }, keys };
    // Two kernels: each takes a minute to compile where a fused multiply-add is made of parts, the third minutes.
    let precisions = if uses_tensor_cores(&client) { &Precision::ALL[..] } else { &[Precision::F32] };
    let sizes = [[1, 5, 3], [7, 700, 40], [70, 33, 130], [65, 40, 66]];
    for ([m, k, n], &precision) in sizes.into_iter().flat_map(|x| precisions.iter().map(move |y| (x, y))) {
        let (mut a, b, bias) = (numbers(1, m * k), numbers(2, k * n), numbers(3, n));
        a[k / 2] = f32::INFINITY;
        let [a, b, bias_there] = [&a, &b, &bias].map(|x| upload(&client, x));
        let (rows, table) = (m, upload_words(&client, &addresses(m).1));
        let product = |epilogue| {
            let (factors, sizes) = ([&a, &b], [m, k, n]);
            matmul(&client, factors, sizes, Layout::NT, precision, epilogue)
        };
        let mut wanted = download(&client, product(Epilogue::default()), m * n);
        wanted.iter_mut().zip(bias.iter().cycle()).for_each(|(y, bias)| *y += bias);
        let [apart, fused] = [0; 2].map(|_| tally::new(&client));
        let y = upload(&client, &wanted);
        let y = perturb_rows(&client, y, [rows, n], &table, &error, Some(&apart));
        let wanted = download(&client, y, m * n);
        let noise = Some(Noise { error: &error, rows: &table, tally: Some(&fused) });
        let found = product(Epilogue { bias: Some(&bias_there), noise });
        assert_bits(&download(&client, found, m * n), &wanted, &format!("[{m}, {k}, {n}] in {precision}"));
        let [apart, fused] = [apart, fused].map(|tally| tally::read(&client, tally));
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
        assert!(apart.non_finite == fused.non_finite, "{apart:?} {fused:?}");
        assert!(near(fused.error, apart.error) && near(fused.signal, apart.signal), "{apart:?} {fused:?}");
    }
}

#[test]
fn tensor_cores_add_up_the_terms_of_a_chain() {
    let client = client();
    if !uses_tensor_cores(&client) {
        println!("this device has no tensor cores, or they are not used");
        return;
    }
    for [m, k, n] in [[3, 1536, 20], [60, 1100, 132], [300, 40, 292], [516, 2048, 260]] {
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let mean = |x: &[f32]| x.iter().map(|x| x.abs()).sum::<f32>() / x.len() as f32;
        // With every term a unit in the last place of the sum is lost at most, on either side.
        let allowed = (k as f32).powi(2) * mean(&a) * mean(&b) * 2.0_f32.powi(-22);
        let [a, b] = [&a, &b].map(|x| upload(&client, x));
        for layout in [Layout::NN, Layout::NT, Layout::TN] {
            let product = chained([&a, &b], [m, k, n], (layout, Precision::Bf16), None);
            let [chains, found] =
                [false, true].map(|there| download(&client, product.compute(&client, None, there), m * n));
            let apart = chains.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("[{m}, {k}, {n}] {layout:?}: {apart:e} apart");
            assert!(apart <= allowed, "[{m}, {k}, {n}] {layout:?}: {apart} apart, {allowed} allowed");
        }
    }
}
