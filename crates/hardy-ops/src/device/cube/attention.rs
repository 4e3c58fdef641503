//! Attention on a device: its tables, and the errors of its sites as the kernels take them.

use burn_cubecl::{
    CubeRuntime,
    cubecl::{client::ComputeClient, prelude::CubeElement, server::Handle},
    tensor::CubeTensor,
};
use hardy_cube::{
    attention::{
        self as kernels, Injected, Keys,
        backward::{self, GradientErrors},
        slots::Slots,
    },
    rule::{self, Error},
};
use hardy_numerics::{ErrorEnergy, Precision};

use super::{X, dims, handle, tensor};
use crate::{
    at::{At, Operand},
    device::{Kernels, inject, tables::count_upload},
    ops::attention::{AttentionAt, Heads, Segments},
    site::{Pass, Point},
};

/// Queries of a block of a packed pass.
const BLOCK: usize = 64;

/// Where errors fall within attention: the site, the point, and the operand whose keys they take.
fn inner(at: &AttentionAt) -> [(&At, Point); 6] {
    [
        (&at.scores, Point::Output),
        (&at.softmax, Point::Input),
        (&at.softmax, Point::Output),
        (&at.values, Point::Input),
        (&at.values, Point::GradInput),
        (&at.softmax, Point::GradInput),
    ]
}

/// Whether the kernels inject all errors within attention.
pub fn attends(at: &AttentionAt) -> bool {
    let supported = |(at, point): (&At, Point)| {
        at.injections(point).iter().all(|error| rule::supports(&error.perturbation, rule::Place::Attention))
    };
    inner(at).into_iter().all(supported)
}

/// The heads as the kernels take them, with what their queries see and how they multiply.
pub fn with_window(heads: Heads, segments: &Segments, at: &AttentionAt) -> kernels::Heads {
    let Heads { query, kv, dim } = heads;
    kernels::Heads { query, kv, dim, window: segments.window(), precision: at.scores.precision() }
}

/// Words on the device.
pub fn upload<R: CubeRuntime>(client: &ComputeClient<R>, words: &[u32]) -> Handle {
    count_upload();
    client.create_from_slice(u32::as_bytes(if words.is_empty() { &[0] } else { words }))
}

/// How many elements the queries of counted rows see, all heads together, `before` being the keys before every segment.
pub fn seen(heads: Heads, segments: &Segments, before: impl Fn(usize) -> usize, at: &At, pass: Pass) -> u64 {
    let window = segments.window();
    let rows = at.rows().len();
    let mut keys = vec![0_u64; rows];
    for (index, range) in segments.ranges().enumerate() {
        let first = before(index) + 1;
        for (query, row) in range.enumerate() {
            keys[row] = (first + query).min(window) as u64;
        }
    }
    let counted = at.rows().spans(pass, 0..rows).filter(|(_, counted)| *counted);
    counted.map(|(span, _)| keys[span].iter().sum::<u64>()).sum::<u64>() * heads.query as u64
}

/// The errors of `point` for the kernels, counted as so many `elements`.
pub fn injected<R: CubeRuntime, B: Kernels<FloatTensorPrimitive = CubeTensor<R>, Device = R::Device>>(
    at: &At,
    point: Point,
    elements: u64,
    device: &R::Device,
) -> Vec<Injected> {
    let one = |error: &crate::errors::Injection| {
        let tally = inject::tally::<B>(at, error, point, device);
        if tally.is_some() {
            let calls = at.calls(point, Operand::Lhs);
            error.tally.add(calls, elements, error.perturbation.scale(), ErrorEnergy::default());
        }
        let keys = error.keys[Operand::Lhs as usize];
        Injected { error: Error { what: error.perturbation, keys }, tally: tally.as_ref().map(handle) }
    };
    at.injections(point).iter().map(one).collect()
}

/// The errors of a forward pass.
pub struct Forward([Vec<Injected>; 4]);

impl Forward {
    pub fn new<R: CubeRuntime, B: Kernels<FloatTensorPrimitive = CubeTensor<R>, Device = R::Device>>(
        at: &AttentionAt,
        elements: impl Fn(&At) -> u64,
        device: &R::Device,
    ) -> Self {
        let [scores, input, output, probabilities, ..] = inner(at);
        Self([scores, input, output, probabilities].map(|(at, point)| {
            let elements = if at.injections(point).is_empty() { 0 } else { elements(at) };
            injected::<R, B>(at, point, elements, device)
        }))
    }

    pub fn errors(&self) -> kernels::Errors<'_> {
        let [scores, softmax_input, softmax_output, probabilities] = &self.0;
        kernels::Errors { scores, softmax_input, softmax_output, probabilities }
    }
}

/// The tables of packed segments.
#[derive(Clone)]
struct Packed {
    slots: Slots,
    table: Handle,
    expanded: usize,
}

impl Packed {
    fn new<R: CubeRuntime>(client: &ComputeClient<R>, segments: &Segments) -> Self {
        let count = segments.len();
        let table = upload(client, &segments.words());
        let block = |index| {
            (0..segments.rows(index).len()).step_by(BLOCK).map(move |first| [index as u32, first as u32])
        };
        let blocks: Vec<u32> = (0..count).flat_map(block).flatten().collect();
        let length = |index| segments.prefix(index).len() + segments.rows(index).len();
        let (tokens, longest) = (
            segments.ranges().map(|rows| rows.len()).sum(),
            (0..count).map(length).max().unwrap_or_default(),
        );
        let (tiles, words) = (blocks.len() / 2, upload(client, &blocks));
        let slots = Slots::packed(client, (&table, count), (&words, tiles), tokens, longest);
        Self { slots, table, expanded: (0..count).map(length).sum() }
    }
}

fn packed<R: CubeRuntime>(like: X<R>, segments: &Segments) -> Packed {
    segments.on_device().get(&like.device, || Packed::new(&like.client, segments))
}

/// All rows of a tensor as keys or values.
fn keys<'a, R: CubeRuntime>(data: &'a Handle, of: X<R>) -> Keys<'a> {
    Keys { data, rows: dims(of)[0] }
}

pub fn forward<R: CubeRuntime, B>(
    [q, k, v]: [X<R>; 3],
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> CubeTensor<R>
where
    B: Kernels<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>, Device = R::Device>,
{
    let packed = packed(q, segments);
    let before = |index| segments.prefix(index).len();
    let elements = |at: &At| seen(heads, segments, before, at, Pass::Forward);
    let errors = Forward::new::<R, B>(at, elements, &q.device);
    let rows = at.values.rows().table::<B>(Pass::Forward, &q.device);
    let [q_data, k_data, v_data] = [q, k, v].map(handle);
    let both = [keys(&k_data, k), keys(&v_data, v)];
    let y = kernels::attention(
        &q.client,
        &q_data,
        both,
        with_window(heads, segments, at),
        &packed.slots,
        &handle(&rows),
        &errors.errors(),
    );
    tensor(y, dims(q), q)
}

pub fn backward<R: CubeRuntime, B>(
    [q, k, v]: [X<R>; 3],
    grad: X<R>,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> [CubeTensor<R>; 3]
where
    B: Kernels<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>, Device = R::Device>,
{
    let (packed, device) = (packed(q, segments), &q.device);
    let before = |index| segments.prefix(index).len();
    let again = Forward::new::<R, B>(&at.again(), |_| 0, device);
    let [.., probabilities, softmax] = inner(at).map(|(at, point)| {
        let counted = point == Point::GradInput && !at.injections(point).is_empty();
        let elements = if counted { seen(heads, segments, before, at, Pass::Backward) } else { 0 };
        if point == Point::GradInput { injected::<R, B>(at, point, elements, device) } else { Vec::new() }
    });
    let errors = GradientErrors { probabilities: &probabilities, softmax: &softmax };
    let tables =
        [Pass::Forward, Pass::Backward].map(|pass| handle(&at.values.rows().table::<B>(pass, device)));
    let [q_data, k_data, v_data, dy] = [q, k, v, grad].map(handle);
    let of = backward::Segments { table: &packed.table, count: segments.len(), expanded: packed.expanded };
    let [dq, dk, dv] = backward::attention_backward(
        &q.client,
        [&q_data, &dy],
        [keys(&k_data, k), keys(&v_data, v)],
        with_window(heads, segments, at),
        (&packed.slots, of),
        tables.each_ref(),
        (&again.errors(), &errors),
    );
    let width = dims(q)[1];
    [tensor(dq, dims(q), q), tensor(dk, [packed.expanded, width], q), tensor(dv, [packed.expanded, width], q)]
}

pub fn add_heads<R: CubeRuntime>(x: X<R>, heads: Heads, order: X<R>, tokens: usize) -> CubeTensor<R> {
    let Heads { query, kv, dim } = heads;
    let of = kernels::Heads { query, kv, dim, window: usize::MAX, precision: Precision::F32 };
    let sum = backward::reduce_kv(&x.client, &handle(x), of, &handle(order), [tokens, dims(x)[0]]);
    tensor(sum, [tokens, kv * dim], x)
}
