//! Every operator, forward and backward, clean and under 5 % error, at the shapes of a small decoder: 4096 tokens in
//! sequences of 128, hidden 256, MLP 704, 8 heads on 4 key-value heads, vocabulary 512; and the plain matrix products
//! of the same shapes beside them.
//!
//! `cargo bench -p hardy-ops`

use std::fmt;

use burn_flex::{Flex, FlexTensor};
use burn_tensor::{Tensor, TensorData, TensorPrimitive};
use divan::{Bencher, black_box, counter::ItemsCount};
use hardy_ops::{
    At, Indices, Noise, NoisyBackend, Op, Ops, Pass, Phase, Plan, Row, Rows, Rule, Site, SiteId,
    ops::{
        attention::{Angles, AttentionAt, Heads, KvBuffer, KvSequence, Places, Segments, cached_attention},
        gelu::Approximation,
    },
};

/// The allocator of the binary: it keeps memory, where the system's gives large blocks back and faults them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 4096;
const LENGTH: usize = 128;
const HIDDEN: usize = 256;
const MLP: usize = 704;
const HEADS: Heads = Heads { query: 8, kv: 4, dim: 32 };
const VOCAB: usize = 512;
/// Sequences of a decoding step.
const SEQUENCES: usize = 256;

fn main() {
    // On a thread of the pool, as the binary computes.
    rayon::scope(|_| divan::main());
}

#[derive(Clone, Copy, Debug)]
enum With {
    Clean,
    Noise,
}

impl fmt::Display for With {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Clean => "clean",
            Self::Noise => "5 %",
        })
    }
}

const BOTH: [With; 2] = [With::Clean, With::Noise];

fn tensor(rows: usize, width: usize, seed: usize) -> FlexTensor {
    let value = |i: usize| ((i * 2_654_435_761 + seed * 40_503) % 2_001) as f32 / 1_000.0 - 1.0;
    FlexTensor::from_data(TensorData::new((0..rows * width).map(value).collect::<Vec<f32>>(), [rows, width]))
}

fn rows(tokens: usize, length: usize) -> Rows {
    (0..tokens).map(|i| Row { sequence: (i / length) as u64, position: (i % length) as u32 }).collect()
}

/// 5 % on the output of `op`, forward and backward.
fn noise(op: Op, with: With) -> Noise {
    let rule =
        Rule { ops: Ops::Some(vec![op]), pass: vec![Pass::Forward, Pass::Backward], ..Rule::noise(0.05) };
    let plan = match with {
        With::Clean => Plan::default(),
        With::Noise => Plan { rules: vec![rule], ..Plan::default() },
    };
    let site = Site { module: "model.layers.0.x".to_owned(), op, layer: Some(0) };
    plan.bind(&[site], &[Phase::Train]).expect("the rule selects the site").noise(Phase::Train, 0)
}

fn at(op: Op, with: With) -> At {
    noise(op, with).at(SiteId(0), &rows(TOKENS, LENGTH))
}

/// `[outer, inner]` of the linear layers.
const LAYERS: [[usize; 2]; 4] = [[HIDDEN, HIDDEN], [MLP, HIDDEN], [HIDDEN, MLP], [VOCAB, HIDDEN]];

fn with_layers() -> impl Iterator<Item = Case> {
    LAYERS.into_iter().flat_map(|shape| BOTH.map(|with| Case { shape, with }))
}

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 2],
    with: With,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.shape[0], self.shape[1], self.with)
    }
}

#[divan::bench(args = with_layers())]
fn linear_forward(bencher: Bencher, case: Case) {
    let [outer, inner] = case.shape;
    let (x, w, at) = (tensor(TOKENS, inner, 1), tensor(outer, inner, 2), at(Op::Linear, case.with));
    bencher
        .counter(multiply_adds(TOKENS, outer, inner))
        .bench_local(|| Flex::noisy_linear(&x, &w, None, &at));
}

#[divan::bench(args = with_layers())]
fn linear_forward_with_bias(bencher: Bencher, case: Case) {
    let [outer, inner] = case.shape;
    let (x, w, b) = (tensor(TOKENS, inner, 1), tensor(outer, inner, 2), tensor(1, outer, 3));
    let at = at(Op::Linear, case.with);
    bencher
        .counter(multiply_adds(TOKENS, outer, inner))
        .bench_local(|| Flex::noisy_linear(&x, &w, Some(&b), &at));
}

#[divan::bench(args = with_layers())]
fn linear_backward(bencher: Bencher, case: Case) {
    let [outer, inner] = case.shape;
    let (x, w, dy) = (tensor(TOKENS, inner, 1), tensor(outer, inner, 2), tensor(TOKENS, outer, 3));
    let at = at(Op::Linear, case.with);
    bencher
        .counter(multiply_adds(2 * TOKENS, outer, inner))
        .bench_local(|| Flex::noisy_linear_backward(&x, &w, &dy, [true; 3], &at));
}

/// `out = a·bᵀ` by the `gemm` crate alone, on all threads.
#[divan::bench(args = LAYERS, consts = [1, 2])]
fn plain_product<const THREADS: usize>(bencher: Bencher, [outer, inner]: [usize; 2]) {
    plain(bencher, TOKENS, outer, inner, THREADS);
}

/// `[tokens, outer, inner]` of the layers of a decoding step.
const DECODING: [[usize; 3]; 4] =
    [[SEQUENCES, 384, 128], [SEQUENCES, 128, 128], [32, 384, 128], [32, 704, 256]];

/// The same for one decoding step.
#[divan::bench(args = DECODING, consts = [1, 2])]
fn plain_product_decoding<const THREADS: usize>(bencher: Bencher, [tokens, outer, inner]: [usize; 3]) {
    plain(bencher, tokens, outer, inner, THREADS);
}

/// The layers of one decoding step.
#[divan::bench(args = DECODING)]
fn linear_decoding(bencher: Bencher, [tokens, outer, inner]: [usize; 3]) {
    let (x, w) = (tensor(tokens, inner, 1), tensor(outer, inner, 2));
    let at = At::clean(&rows(tokens, 1));
    bencher
        .counter(multiply_adds(tokens, outer, inner))
        .bench_local(|| Flex::noisy_linear(&x, &w, None, &at));
}

fn plain(bencher: Bencher, m: usize, n: usize, k: usize, threads: usize) {
    let (a, b, mut out) = (Flex::host(&tensor(m, k, 1)), Flex::host(&tensor(n, k, 2)), vec![0.0_f32; m * n]);
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    let (rows, cols) = (n as isize, k as isize);
    bencher.counter(multiply_adds(m, n, k)).bench_local(|| {
        // SAFETY: the factors and the product have exactly the shapes given here.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                rows,
                false,
                a.as_ptr(),
                1,
                cols,
                b.as_ptr(),
                cols,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
        black_box(&mut out);
    });
}

fn multiply_adds(m: usize, n: usize, k: usize) -> ItemsCount {
    ItemsCount::new(m * n * k)
}

fn attention_at(op: Op, with: With, tokens: usize, length: usize) -> AttentionAt {
    let rows = rows(tokens, length);
    let part = |of: Op| if of == op { noise(of, with).at(SiteId(0), &rows) } else { At::clean(&rows) };
    AttentionAt { scores: part(Op::Matmul), softmax: part(Op::Softmax), values: part(Op::Matmul) }
}

fn qkv(tokens: usize) -> [FlexTensor; 3] {
    let (wide, narrow) = (HEADS.query * HEADS.dim, HEADS.kv * HEADS.dim);
    [tensor(tokens, wide, 1), tensor(tokens, narrow, 2), tensor(tokens, narrow, 3)]
}

/// The angles of sequences of `length`.
fn angles(tokens: usize, length: usize) -> Angles {
    Angles::new((0..tokens).map(|i| (i % length) as u32), &[0.1; HEADS.dim / 2])
}

/// With the turn of queries and keys.
#[divan::bench(args = BOTH)]
fn attention_forward(bencher: Bencher, with: With) {
    let ([q, k, v], at) = (qkv(TOKENS), attention_at(Op::Matmul, with, TOKENS, LENGTH));
    let (angles, segments) = (angles(TOKENS, LENGTH), Segments::from_lengths([LENGTH; TOKENS / LENGTH]));
    bencher.bench_local(|| Flex::noisy_attention([&q, &k, &v], &angles, HEADS, &segments, &at));
}

#[divan::bench(args = BOTH)]
fn attention_backward(bencher: Bencher, with: With) {
    let ([q, k, v], at) = (qkv(TOKENS), attention_at(Op::Matmul, with, TOKENS, LENGTH));
    let (dy, angles) = (tensor(TOKENS, HIDDEN, 4), angles(TOKENS, LENGTH));
    let segments = Segments::from_lengths([LENGTH; TOKENS / LENGTH]);
    bencher.bench_local(|| Flex::noisy_attention_backward([&q, &k, &v], &dy, &angles, HEADS, &segments, &at));
}

/// One new token for each of 256 sequences of 127 and more: the caches grow from call to call.
#[divan::bench(args = BOTH, sample_count = 32, sample_size = 1)]
fn attention_decoding(bencher: Bencher, with: With) {
    let places = Places { count: SEQUENCES, tokens: 2 * LENGTH, layers: 1, width: HEADS.kv * HEADS.dim };
    let mut cache = KvBuffer::for_sequences(places);
    let sequences: Vec<KvSequence> = (0..SEQUENCES).map(|_| cache.sample(None)).collect();
    let tokens = SEQUENCES * (LENGTH - 1);
    let ([q, k, v], clean) = (qkv(tokens), attention_at(Op::Linear, With::Clean, tokens, LENGTH - 1));
    let (turns, prefix) = (angles(tokens, LENGTH - 1), Segments::from_lengths([LENGTH - 1; SEQUENCES]));
    let tensors =
        |qkv: [FlexTensor; 3]| qkv.map(|x| Tensor::<Flex, 2>::from_primitive(TensorPrimitive::Float(x)));
    cached_attention(tensors([q, k, v]), cache.layer(0, &sequences), &turns, HEADS, &prefix, &clean);
    let (qkv, at) = (tensors(qkv(SEQUENCES)), attention_at(Op::Matmul, with, SEQUENCES, 1));
    let (turns, one) = (angles(SEQUENCES, 1), Segments::from_lengths([1; SEQUENCES]));
    bencher
        .bench_local(|| cached_attention(qkv.clone(), cache.layer(0, &sequences), &turns, HEADS, &one, &at));
}

#[divan::bench(args = BOTH)]
fn softmax_forward(bencher: Bencher, with: With) {
    let (x, at) = (tensor(TOKENS, VOCAB, 1), at(Op::Softmax, with));
    bencher.counter(ItemsCount::new(TOKENS * VOCAB)).bench_local(|| Flex::noisy_softmax(&x, &at));
}

#[divan::bench(args = BOTH)]
fn softmax_backward(bencher: Bencher, with: With) {
    let (x, dy, at) = (tensor(TOKENS, VOCAB, 1), tensor(TOKENS, VOCAB, 2), at(Op::Softmax, with));
    bencher
        .counter(ItemsCount::new(TOKENS * VOCAB))
        .bench_local(|| Flex::noisy_softmax_backward(&x, &dy, &at));
}

#[divan::bench(args = BOTH)]
fn rms_norm_forward(bencher: Bencher, with: With) {
    let (x, w, at) = (tensor(TOKENS, HIDDEN, 1), tensor(1, HIDDEN, 2), at(Op::RmsNorm, with));
    bencher.counter(ItemsCount::new(TOKENS * HIDDEN)).bench_local(|| Flex::noisy_rms_norm(&x, &w, 1e-6, &at));
}

#[divan::bench(args = BOTH)]
fn rms_norm_backward(bencher: Bencher, with: With) {
    let (x, w, dy) = (tensor(TOKENS, HIDDEN, 1), tensor(1, HIDDEN, 2), tensor(TOKENS, HIDDEN, 3));
    let at = at(Op::RmsNorm, with);
    bencher
        .counter(ItemsCount::new(TOKENS * HIDDEN))
        .bench_local(|| Flex::noisy_rms_norm_backward(&x, &w, &dy, 1e-6, true, &at));
}

#[divan::bench(args = BOTH)]
fn layer_norm_forward(bencher: Bencher, with: With) {
    let (x, w, b) = (tensor(TOKENS, HIDDEN, 1), tensor(1, HIDDEN, 2), tensor(1, HIDDEN, 3));
    let at = at(Op::LayerNorm, with);
    bencher
        .counter(ItemsCount::new(TOKENS * HIDDEN))
        .bench_local(|| Flex::noisy_layer_norm(&x, &w, &b, 1e-6, &at));
}

#[divan::bench(args = BOTH)]
fn layer_norm_backward(bencher: Bencher, with: With) {
    let (x, w, dy) = (tensor(TOKENS, HIDDEN, 1), tensor(1, HIDDEN, 2), tensor(TOKENS, HIDDEN, 3));
    let at = at(Op::LayerNorm, with);
    bencher
        .counter(ItemsCount::new(TOKENS * HIDDEN))
        .bench_local(|| Flex::noisy_layer_norm_backward(&x, &w, &dy, 1e-6, [true; 2], &at));
}

#[divan::bench(args = BOTH)]
fn silu_forward(bencher: Bencher, with: With) {
    let (x, at) = (tensor(TOKENS, MLP, 1), at(Op::Silu, with));
    bencher.counter(ItemsCount::new(TOKENS * MLP)).bench_local(|| Flex::noisy_silu(&x, &at));
}

#[divan::bench(args = BOTH)]
fn silu_backward(bencher: Bencher, with: With) {
    let (x, dy, at) = (tensor(TOKENS, MLP, 1), tensor(TOKENS, MLP, 2), at(Op::Silu, with));
    bencher.counter(ItemsCount::new(TOKENS * MLP)).bench_local(|| Flex::noisy_silu_backward(&x, &dy, &at));
}

const GELUS: [Approximation; 2] = [Approximation::Exact, Approximation::Tanh];

#[divan::bench(args = GELUS)]
fn gelu_forward(bencher: Bencher, how: Approximation) {
    let (x, at) = (tensor(TOKENS, MLP, 1), at(Op::Gelu, With::Clean));
    bencher.counter(ItemsCount::new(TOKENS * MLP)).bench_local(|| Flex::noisy_gelu(&x, how, &at));
}

#[divan::bench(args = GELUS)]
fn gelu_backward(bencher: Bencher, how: Approximation) {
    let (x, dy, at) = (tensor(TOKENS, MLP, 1), tensor(TOKENS, MLP, 2), at(Op::Gelu, With::Clean));
    bencher
        .counter(ItemsCount::new(TOKENS * MLP))
        .bench_local(|| Flex::noisy_gelu_backward(&x, &dy, how, &at));
}

fn ids() -> Indices {
    (0..TOKENS as u32).map(|i| i.wrapping_mul(2_654_435_761) % VOCAB as u32).collect()
}

#[divan::bench(args = BOTH)]
fn embedding_forward(bencher: Bencher, with: With) {
    let (w, ids, at) = (tensor(VOCAB, HIDDEN, 1), ids(), at(Op::Embedding, with));
    bencher.counter(ItemsCount::new(TOKENS * HIDDEN)).bench_local(|| Flex::noisy_embedding(&w, &ids, &at));
}

#[divan::bench(args = BOTH)]
fn embedding_backward(bencher: Bencher, with: With) {
    let (w, dy, ids, at) =
        (tensor(VOCAB, HIDDEN, 1), tensor(TOKENS, HIDDEN, 2), ids(), at(Op::Embedding, with));
    bencher
        .counter(ItemsCount::new(TOKENS * HIDDEN))
        .bench_local(|| Flex::noisy_embedding_backward(&w, &ids, &dy, &at));
}

#[divan::bench]
fn gather_rows_forward(bencher: Bencher) {
    let (x, rows) = (tensor(TOKENS, HIDDEN, 1), (0..TOKENS as u32).step_by(2).collect::<Indices>());
    bencher.counter(ItemsCount::new(rows.len() * HIDDEN)).bench_local(|| Flex::gather_rows(&x, &rows));
}

#[divan::bench]
fn gather_rows_backward(bencher: Bencher) {
    let rows: Indices = (0..TOKENS as u32).step_by(2).collect();
    let dy = tensor(rows.len(), HIDDEN, 1);
    bencher
        .counter(ItemsCount::new(rows.len() * HIDDEN))
        .bench_local(|| Flex::gather_rows_backward(&dy, &rows, TOKENS));
}

#[divan::bench]
fn log_prob_forward(bencher: Bencher) {
    let (z, ids) = (tensor(TOKENS, VOCAB, 1), ids());
    bencher.counter(ItemsCount::new(TOKENS * VOCAB)).bench_local(|| Flex::log_prob(&z, &ids, 1.0));
}

#[divan::bench]
fn log_prob_backward(bencher: Bencher) {
    let (z, dy, ids) = (tensor(TOKENS, VOCAB, 1), tensor(TOKENS, 1, 2), ids());
    bencher
        .counter(ItemsCount::new(TOKENS * VOCAB))
        .bench_local(|| Flex::log_prob_backward(&z, &ids, 1.0, &dy));
}
