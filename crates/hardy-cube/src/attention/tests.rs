use super::backward::{GradientErrors, Segments, attention_backward, reduce_kv};
use super::*;
use crate::testing::*;
use hardy_numerics::{Format, NoiseKey, Perturbation, Row, math};

/// A packed pass: segments of so many rows, each of which may continue an earlier one.
struct Pass {
    segments: Vec<(usize, Option<usize>)>,
    heads: Heads,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    rows: Vec<Row>,
    table: Vec<u32>,
}

/// The errors of a pass: on scores, the input and the output of the softmax, and probabilities.
type Rules = [Vec<Error>; 4];

impl Pass {
    fn new(segments: &[(usize, Option<usize>)], [query, kv, dim]: [usize; 3], window: usize) -> Self {
        let tokens: usize = segments.iter().map(|segment| segment.0).sum();
        let (rows, table) = addresses(tokens);
        let heads = Heads { query, kv, dim, window, precision: Precision::F32 };
        let [q, k, v] =
            [(1, query), (2, kv), (3, kv)].map(|(seed, heads)| numbers(seed, tokens * heads * dim));
        Self { segments: segments.to_vec(), heads, q, k, v, rows, table }
    }

    /// The same in bfloat16.
    fn narrow(mut self) -> Self {
        self.heads.precision = Precision::Bf16;
        self
    }

    fn see(&self, x: f32) -> f32 {
        self.heads.precision.operand(x)
    }

    fn tokens(&self) -> usize {
        self.rows.len()
    }

    /// The rows of segment `index`, and those of its prefix.
    fn ranges(&self, index: usize) -> [std::ops::Range<usize>; 2] {
        let first = |index: usize| self.segments[..index].iter().map(|segment| segment.0).sum::<usize>();
        let rows = |index: usize| first(index)..first(index) + self.segments[index].0;
        [rows(index), self.segments[index].1.map_or(0..0, rows)]
    }

    /// Every query: its row, the rows of the keys of its segment, and which of them it sees.
    fn queries(&self) -> Vec<(usize, Vec<usize>, std::ops::Range<usize>)> {
        let of = |index: usize| {
            let [own, prefix] = self.ranges(index);
            let keys: Vec<usize> = prefix.clone().chain(own.clone()).collect();
            own.enumerate().map(move |(i, row)| {
                let end = prefix.len() + i + 1;
                (row, keys.clone(), end.saturating_sub(self.heads.window)..end)
            })
        };
        (0..self.segments.len()).flat_map(of).collect()
    }

    fn longest(&self) -> usize {
        let keys = |index: usize| self.ranges(index).map(|range| range.len()).iter().sum();
        (0..self.segments.len()).map(keys).max().unwrap_or_default()
    }

    /// Σ over the head's elements of one row of `a` and one of `b`.
    fn product(&self, fused: bool, a: &[f32], row: usize, b: &[f32], key: usize, head: usize) -> f32 {
        let Heads { dim, query, kv, .. } = self.heads;
        let (a, b) = (
            &a[row * query * dim + head * dim..][..dim],
            &b[key * kv * dim + head / (query / kv) * dim..][..dim],
        );
        let terms: Vec<(f32, f32)> =
            a.iter().map(|&a| self.see(a)).zip(b.iter().map(|&b| self.see(b))).collect();
        plain::chain(fused, &terms, None)
    }

    /// The probabilities of a query's head over what it sees, as the softmax makes them.
    fn probabilities(
        &self,
        fused: bool,
        (row, keys, seen): &(usize, Vec<usize>, std::ops::Range<usize>),
        head: usize,
        rules: &Rules,
    ) -> Vec<f32> {
        let mut s: Vec<f32> =
            seen.clone().map(|j| self.product(fused, &self.q, *row, &self.k, keys[j], head)).collect();
        self.inject(&rules[0], *row, head, seen.start, &mut s);
        s.iter_mut().for_each(|s| *s *= self.heads.scale());
        self.inject(&rules[1], *row, head, seen.start, &mut s);
        let max = plain::largest(&s);
        s.iter_mut().for_each(|s| *s = math::exp(*s - max));
        let scale = 1.0 / plain::sum(&s);
        s.iter_mut().for_each(|s| *s *= scale);
        s
    }

    fn inject(&self, rules: &[Error], row: usize, head: usize, first: usize, x: &mut [f32]) {
        for Error { what, keys } in rules {
            what.apply(*keys, self.rows[row], ((head << 20) + first) as u64, x);
        }
    }

    /// A chain over keys that begins anew at every 512th.
    fn mix(&self, fused: bool, p: &[f32], first: usize, term: impl Fn(usize) -> f32) -> f32 {
        let (mut total, mut link) = (0.0, 0.0);
        for (i, &p) in p.iter().enumerate() {
            let j = first + i;
            if j % 512 == 0 && i > 0 {
                total += link;
                link = 0.0;
            }
            link = plain::mul_add(fused, self.see(p), self.see(term(j)), link);
        }
        total + link
    }

    fn forward(&self, fused: bool, rules: &Rules) -> Vec<f32> {
        let Heads { query, kv, dim, .. } = self.heads;
        let mut y = vec![0.0; self.q.len()];
        for of @ (row, keys, seen) in &self.queries() {
            for head in 0..query {
                let mut p = self.probabilities(fused, of, head, rules);
                self.inject(&rules[2], *row, head, seen.start, &mut p);
                self.inject(&rules[3], *row, head, seen.start, &mut p);
                for c in 0..dim {
                    let value = |j: usize| self.v[(keys[j] * kv + head / (query / kv)) * dim + c];
                    y[(row * query + head) * dim + c] = self.mix(fused, &p, seen.start, value);
                }
            }
        }
        y
    }

    /// The handles of a pass on the device.
    fn slots(&self, client: &Client<Device>) -> (Slots, Handle, usize) {
        let (mut table, mut blocks, mut expanded) = (Vec::new(), Vec::new(), 0);
        for index in 0..self.segments.len() {
            let [own, prefix] = self.ranges(index);
            table.extend([own.start, own.len(), prefix.start, prefix.len()].map(|x| x as u32));
            blocks.extend((0..own.len()).step_by(64).flat_map(|first| [index as u32, first as u32]));
            expanded += own.len() + prefix.len();
        }
        let (segments, tiles) = (upload_words(client, &table), upload_words(client, &blocks));
        let (segments_of, tiles) = ((&segments, self.segments.len()), (&tiles, blocks.len() / 2));
        let slots = Slots::packed(client, segments_of, tiles, self.tokens(), self.longest());
        (slots, segments, expanded)
    }

    fn run(&self, client: &Client<Device>, rules: &Rules) -> Vec<f32> {
        let (slots, ..) = self.slots(client);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| upload(client, x));
        let rules = rules.each_ref().map(|rules| measured(client, rules));
        let keys = [&k, &v].map(|data| Keys { data, rows: self.tokens() });
        let table = upload_words(client, &self.table);
        let y = attention(client, &q, keys, self.heads, &slots, &table, &errors(&rules));
        download(client, y, self.q.len())
    }
}

/// An empty tally for every error.
fn measured(client: &Client<Device>, errors: &[Error]) -> Vec<Injected> {
    errors.iter().map(|&error| Injected { error, tally: Some(crate::tally::new(client)) }).collect()
}

fn errors(rules: &[Vec<Injected>; 4]) -> Errors<'_> {
    let [scores, softmax_input, softmax_output, probabilities] = rules;
    Errors { scores, softmax_input, softmax_output, probabilities }
}

fn rule(seed: u32, what: Perturbation) -> Error {
    Error { what, keys: NoiseKey([seed, 77]).into() }
}

fn noise(seed: u32, scale: f64) -> Error {
    rule(seed, Perturbation::RelativeGaussian { scale })
}

fn no_rules() -> Rules {
    Default::default()
}

fn all_rules() -> Rules {
    [
        vec![noise(1, 0.1), rule(2, Format::Mxfp8E4m3.into())],
        vec![rule(3, Perturbation::AbsoluteGaussian { scale: 0.05 })],
        vec![noise(4, 0.05)],
        vec![noise(5, 0.02), rule(6, Format::Nvfp4.into())],
    ]
}

fn passes() -> Vec<Pass> {
    vec![
        Pass::new(&[(5, None)], [2, 1, 4], usize::MAX),
        Pass::new(&[(70, None), (9, Some(0)), (66, Some(0)), (1, None)], [4, 2, 24], usize::MAX),
        Pass::new(&[(70, None), (40, Some(0)), (30, None)], [2, 2, 8], 37),
        Pass::new(&[(530, None), (20, Some(0))], [1, 1, 4], usize::MAX),
        Pass::new(&[(70, None), (40, Some(0)), (30, None)], [2, 1, 20], 50).narrow(),
    ]
}

#[test]
fn a_packed_pass_is_that_of_the_cpu_to_the_bit() {
    let client = client();
    for (index, pass) in passes().iter().enumerate() {
        for rules in [no_rules(), all_rules(), [vec![noise(8, 0.1)], vec![], vec![], vec![]]] {
            let wanted = pass.forward(fused(&client), &rules);
            assert_bits(&pass.run(&client, &rules), &wanted, &format!("pass {index}"));
        }
    }
}

#[test]
fn a_later_token_that_is_not_finite_does_not_reach_an_earlier_one() {
    let client = client();
    let mut pass = Pass::new(&[(70, None), (9, Some(0))], [2, 1, 8], usize::MAX);
    let clean = pass.run(&client, &no_rules());
    let (at, width) = (40, pass.heads.query_width());
    pass.v[at * 8..][..8].fill(f32::NAN);
    pass.k[at * 8..][..8].fill(f32::INFINITY);
    let found = pass.run(&client, &no_rules());
    assert_bits(&found[..at * width], &clean[..at * width], "earlier tokens");
    assert!(found[at * width..].iter().all(|y| y.is_nan()));
}

/// Prompts and then single tokens from a cache, where a prompt's place is shared.
#[test]
fn a_cached_pass_equals_the_full_one_to_the_bit() {
    let client = client();
    let (prompt, lengths) = (67, [12, 5]);
    let mut pass =
        Pass::new(&[(prompt, None), (lengths[0], Some(0)), (lengths[1], Some(0))], [4, 2, 8], usize::MAX);
    for (window, precision) in [(usize::MAX, Precision::F32), (30, Precision::F32), (40, Precision::Bf16)] {
        pass.heads = Heads { window, precision, ..pass.heads };
        for rules in [no_rules(), all_rules()] {
            let full = pass.run(&client, &rules);
            let (query, kv) = (pass.heads.query_width(), pass.heads.kv_width());
            // The prompt's place, and one for each sample.
            let room = [prompt, 12, 5];
            let rows: usize = room.iter().sum();
            let [cache_k, cache_v] = [0; 2].map(|_| empty(&client, rows * kv));
            let measured = rules.each_ref().map(|rules| measured(&client, rules));
            let step = |chosen: &[usize], segments: &[u32], places: &[u32], keys: usize| {
                let of = |x: &[f32], width: usize| -> Handle {
                    let part: Vec<f32> =
                        chosen.iter().flat_map(|row| x[row * width..][..width].to_vec()).collect();
                    upload(&client, &part)
                };
                let (q, k, v) = (of(&pass.q, query), of(&pass.k, kv), of(&pass.v, kv));
                let table: Vec<u32> =
                    chosen.iter().flat_map(|row| pass.table[4 * row..][..4].to_vec()).collect();
                let table = upload_words(&client, &table);
                let (count, segments) = (segments.len() / 4, upload_words(&client, segments));
                let places = upload_words(&client, places);
                let slots = Slots::cached(&client, (&segments, count), &places, chosen.len(), keys);
                slots.store(&client, &k, &cache_k, rows, kv);
                slots.store(&client, &v, &cache_v, rows, kv);
                let keys = [&cache_k, &cache_v].map(|data| Keys { data, rows });
                let y = attention(&client, &q, keys, pass.heads, &slots, &table, &errors(&measured));
                let y = download(&client, y, chosen.len() * query);
                for (row, y) in chosen.iter().zip(y.chunks(query)) {
                    assert_bits(y, &full[row * query..][..query], &format!("row {row}, window {window}"));
                }
            };
            let all: Vec<usize> = (0..prompt).collect();
            step(&all[..50], &[0, 50, 0, 0], &[0, 0, 0, 0], 50);
            step(&all[50..], &[0, 17, 0, 0], &[0, 0, 0, 50], 67);
            for token in 0..12_usize {
                let (a, b) = (prompt + token, prompt + 12 + token);
                let (held, prompt) = (token as u32, prompt as u32);
                let places = [0, prompt, prompt, held, 0, prompt, prompt + 12, held];
                if token < 5 {
                    step(&[a, b], &[0, 1, 0, 0, 1, 1, 0, 0], &places, 67 + token + 1);
                } else {
                    step(&[a], &[0, 1, 0, 0], &places[..4], 67 + token + 1);
                }
            }
        }
    }
}

/// The gradients of a pass, written down plainly: of queries, and for every segment of keys and values.
fn gradients(
    pass: &Pass,
    fused: bool,
    dy: &[f32],
    gradient_rows: &[Row],
    rules: &Rules,
    [on_probabilities, on_softmax]: [&[Error]; 2],
) -> [Vec<f32>; 3] {
    let Heads { query, kv, dim, .. } = pass.heads;
    let width = query * dim;
    let (mut dq, mut dk, mut dv) = (vec![0.0; pass.q.len()], Vec::new(), Vec::new());
    let queries = pass.queries();
    for index in 0..pass.segments.len() {
        let [own, prefix] = pass.ranges(index);
        let keys = prefix.len() + own.len();
        let [mut part_k, mut part_v] = [0; 2].map(|_| vec![0.0; keys * width]);
        for block in (own.start..own.end).step_by(64) {
            let block = &queries[block..own.end.min(block + 64)];
            let [mut links_k, mut links_v] = [0; 2].map(|_| vec![0.0_f32; keys * width]);
            for of @ (row, key_rows, seen) in block {
                for head in 0..query {
                    let p = pass.probabilities(fused, of, head, rules);
                    let mut perturbed = p.clone();
                    pass.inject(&rules[2], *row, head, seen.start, &mut perturbed);
                    pass.inject(&rules[3], *row, head, seen.start, &mut perturbed);
                    let mut ds: Vec<f32> = seen
                        .clone()
                        .map(|j| pass.product(fused, dy, *row, &pass.v, key_rows[j], head))
                        .collect();
                    let first = ((head << 20) + seen.start) as u64;
                    on_probabilities.iter().for_each(|rule| {
                        rule.what.apply(rule.keys, gradient_rows[*row], first, &mut ds);
                    });
                    let mean = plain::dot(&ds, &p);
                    ds.iter_mut().zip(&p).for_each(|(ds, p)| *ds = p * (*ds - mean));
                    on_softmax.iter().for_each(|rule| {
                        rule.what.apply(rule.keys, gradient_rows[*row], first, &mut ds);
                    });
                    ds.iter_mut().for_each(|ds| *ds *= pass.heads.scale());
                    for c in 0..dim {
                        let key = |j: usize| pass.k[(key_rows[j] * kv + head / (query / kv)) * dim + c];
                        let of = (row * query + head) * dim + c;
                        dq[of] = pass.mix(fused, &ds, seen.start, key);
                        for (i, j) in seen.clone().enumerate() {
                            let to = (j * query + head) * dim + c;
                            let see = |x: f32| pass.see(x);
                            links_v[to] = plain::mul_add(fused, see(perturbed[i]), see(dy[of]), links_v[to]);
                            links_k[to] = plain::mul_add(fused, see(ds[i]), see(pass.q[of]), links_k[to]);
                        }
                    }
                }
            }
            part_k.iter_mut().zip(links_k).for_each(|(sum, link)| *sum += link);
            part_v.iter_mut().zip(links_v).for_each(|(sum, link)| *sum += link);
        }
        dk.extend(part_k);
        dv.extend(part_v);
    }
    [dq, dk, dv]
}

#[test]
fn gradients_are_those_of_the_cpu_to_the_bit() {
    let client = client();
    for (index, pass) in passes().iter().enumerate() {
        let dy = numbers(9, pass.q.len());
        let gradient_rows: Vec<Row> =
            (0..pass.tokens()).map(|i| Row { sequence: 90, position: i as u32 }).collect();
        let gradient_table: Vec<u32> =
            gradient_rows.iter().flat_map(|row| [row.position, row.sequence as u32, 0, 1]).collect();
        let backward = [vec![noise(21, 0.1)], vec![rule(22, Perturbation::AbsoluteGaussian { scale: 0.01 })]];
        for (rules, backward) in [(no_rules(), [vec![], vec![]]), (all_rules(), backward)] {
            let [on_probabilities, on_softmax] = &backward;
            let wanted =
                gradients(pass, fused(&client), &dy, &gradient_rows, &rules, [on_probabilities, on_softmax]);
            let (slots, table, expanded) = pass.slots(&client);
            let [q, k, v, dy] = [&pass.q, &pass.k, &pass.v, &dy].map(|x| upload(&client, x));
            let keys = [&k, &v].map(|data| Keys { data, rows: pass.tokens() });
            let tables = [&pass.table, &gradient_table].map(|table| upload_words(&client, table));
            let again = rules
                .each_ref()
                .map(|rules| rules.iter().map(|&error| Injected { error, tally: None }).collect::<Vec<_>>());
            let [probabilities, softmax] = &backward.each_ref().map(|rules| measured(&client, rules));
            let segments = Segments { table: &table, count: pass.segments.len(), expanded };
            let found = attention_backward(
                &client,
                [&q, &dy],
                keys,
                pass.heads,
                (&slots, segments),
                tables.each_ref(),
                (&errors(&again), &GradientErrors { probabilities, softmax }),
            );
            for ((found, wanted), name) in found.into_iter().zip(&wanted).zip(["dq", "dk", "dv"]) {
                assert_bits(
                    &download(&client, found, wanted.len()),
                    wanted,
                    &format!("pass {index}: {name}"),
                );
            }
        }
    }
}

#[test]
fn gradients_of_keys_are_added_over_heads_and_segments() {
    let client = client();
    let heads = Heads { query: 4, kv: 2, dim: 3, window: usize::MAX, precision: Precision::F32 };
    let (tokens, expanded) = (5, 8);
    let x = numbers(1, expanded * heads.query_width());
    // Rows 0 and 1 are a prefix of two segments.
    let rows: [&[u32]; 5] = [&[0, 2, 5], &[1, 3, 6], &[4], &[], &[7]];
    let offsets = rows.iter().scan(0, |end, rows| {
        *end += rows.len() as u32;
        Some(*end)
    });
    let expansion: Vec<u32> = std::iter::once(0).chain(offsets).chain(rows.concat()).collect();
    let mut wanted = vec![0.0; tokens * heads.kv_width()];
    for (token, rows) in rows.iter().enumerate() {
        for (i, sum) in wanted[token * 6..][..6].iter_mut().enumerate() {
            for &row in *rows {
                let of = |query: usize| x[(row as usize * 4 + i / 3 * 2 + query) * 3 + i % 3];
                *sum += 0.0 + of(0) + of(1);
            }
        }
    }
    let expansion = upload_words(&client, &expansion);
    let found = reduce_kv(&client, &upload(&client, &x), heads, &expansion, [tokens, expanded]);
    assert_bits(&download(&client, found, wanted.len()), &wanted, "sums");
}
