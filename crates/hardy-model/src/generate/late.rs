//! The end of a generation on a device that draws tokens by itself, when no sample waits to be started: the next token is
//! computed from what was drawn before the host has seen it, so that the device never waits for the host. A sequence is found
//! to have ended one token late; what it computed meanwhile is left aside.

use hardy_ops::{Noise, NoisyBackend, Row, ops::attention::KvBuffer, ops::sample::sample_there};

use super::{Active, Batch, Frozen, Generation, KvSequence};

/// What a device has drawn for all sequences of the batch, each by its row, and nobody has seen.
struct Underway<B: NoisyBackend> {
    drawn: B::Underway,
    rows: Vec<u32>,
}

/// Whether a device draws, and may compute a token for a sequence that has ended: where an error would be counted there, or
/// somebody watches, it may not.
pub(super) fn may_be<B: NoisyBackend>(noise: &Noise, how: &Generation) -> bool {
    B::draws_there(&how.sampler) && !noise.acts_on_rows() && !noise.is_watched()
}

/// One more token for some sequences, whose places in `active` are `going`, after the one of each that is underway.
fn step<B: NoisyBackend>(
    frozen: &Frozen<B>,
    active: &[Active],
    going: &[usize],
    before: Option<&Underway<B>>,
    (cache, how): (&mut KvBuffer<B>, &Generation),
) -> B::Underway {
    let chosen = || going.iter().map(|&index| &active[index]);
    let ahead = u32::from(before.is_some());
    let tokens: Vec<([u32; 1], [Row; 1])> = chosen()
        .map(|sequence| {
            let (id, [row]) = sequence.last_token();
            (id, [Row { position: row.position + ahead, ..row }])
        })
        .collect();
    let batch = Batch::pack(tokens.iter().map(|(id, row)| (&id[..], &row[..])));
    let cached: Vec<KvSequence> = chosen().map(|sequence| sequence.cached).collect();
    let hidden = match before {
        None => frozen.hidden(&batch, cache, &cached),
        Some(Underway { drawn, rows }) => {
            let rows: Vec<u32> = going.iter().map(|&index| rows[index]).collect();
            frozen.hidden_of_drawn((drawn, &rows), &batch, cache, &cached)
        }
    };
    let every: Vec<u32> = (0..going.len() as u32).collect();
    let next = chosen().map(|sequence| {
        let row = sequence.next_row();
        Row { position: row.position + ahead, ..row }
    });
    let next: Vec<Row> = next.collect();
    let drawn = sample_there(frozen.logits(hidden, &batch, &every), &next, &how.sampler, how.key);
    drawn.expect("a device that draws")
}

/// Decodes until all of `active` have ended, of which each is handed to `ended`.
///
/// # Panics
/// If the device does not draw.
pub(super) fn decode_to_the_end<B: NoisyBackend>(
    frozen: &Frozen<B>,
    active: &mut Vec<Active>,
    cache: &mut KvBuffer<B>,
    how: &Generation,
    mut ended: impl FnMut(&mut Active, &mut KvBuffer<B>),
) {
    let mut before: Option<Underway<B>> = None;
    while !active.is_empty() {
        let ahead = usize::from(before.is_some());
        let may_go = |(index, sequence): (usize, &Active)| {
            (sequence.out.ids.len() + ahead < how.max_new_tokens).then_some(index)
        };
        let going: Vec<usize> = active.iter().enumerate().filter_map(may_go).collect();
        let next = (!going.is_empty()).then(|| step(frozen, active, &going, before.as_ref(), (cache, how)));
        if let Some(Underway { drawn, rows }) = before.take() {
            let drawn = B::arrived(&drawn);
            active.iter_mut().zip(rows).for_each(|(sequence, row)| sequence.push(drawn[row as usize], how));
        }
        let mut places: Vec<Option<u32>> = vec![None; active.len()];
        (0..).zip(&going).for_each(|(row, &index)| places[index] = Some(row));
        let mut places = places.into_iter();
        let mut rows = Vec::with_capacity(going.len());
        active.retain_mut(|sequence| {
            let row = places.next().flatten();
            if sequence.has_ended(how) {
                ended(sequence, cache);
                return false;
            }
            rows.extend(row);
            true
        });
        let Some(drawn) = next else { return };
        before = Some(Underway { drawn, rows });
    }
}
