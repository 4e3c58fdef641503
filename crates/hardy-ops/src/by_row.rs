//! The errors of one point of an activation, row by row, for kernels that make a pass in several parts and count it as
//! one.

use std::ops::Range;

use hardy_numerics::{ErrorEnergy, Row};
use rayon::prelude::*;

use crate::{
    at::{At, Operand},
    errors::Injection,
    site::Point,
};

/// The errors of one point, row by row.
#[derive(Clone, Copy)]
pub(crate) struct ByRow<'a> {
    at: &'a At,
    injections: &'a [Injection],
    point: Point,
    operand: Operand,
}

/// Elements and energy of what a [`ByRow`] injected and counts, one entry an injection.
pub(crate) type Sums = Vec<(u64, ErrorEnergy)>;

/// Part of a row: whose it is, where the row's noise begins, and which elements of both it is.
pub(crate) struct Part {
    pub row: usize,
    pub first_element: u64,
    pub seen: Range<usize>,
}

impl<'a> ByRow<'a> {
    pub fn new(at: &'a At, point: Point, operand: Operand) -> Self {
        Self { at, injections: at.injections(point), point, operand }
    }

    /// Injects into a part of every row of `x` `[rows, stride]`: `part` tells which part of which row of the
    /// activation row `i` holds; all are of the rows `range`. Adds to `sums`.
    pub fn apply_parts(
        &self,
        range: Range<usize>,
        stride: usize,
        x: &mut [f32],
        part: impl Fn(usize) -> Part,
        sums: &mut Sums,
    ) {
        sums.resize(self.injections.len(), (0, ErrorEnergy::default()));
        let addresses = self.addresses();
        for (injection, sum) in self.injections.iter().zip(sums) {
            let key = injection.keys[self.operand as usize];
            for (span, counted) in self.at.rows().spans(self.point.pass(), range.clone()) {
                let mut elements = 0;
                let parts = x.chunks_exact_mut(stride).enumerate().filter_map(|(i, x)| {
                    let Part { row, first_element, seen } = part(i);
                    span.contains(&row).then(|| {
                        elements += seen.len() as u64;
                        (addresses[row], first_element + seen.start as u64, &mut x[seen])
                    })
                });
                let energy = injection.perturbation.apply_parts(key, parts);
                add(sum, counted, elements, energy);
            }
        }
    }

    /// Injects into the rows `range` of the activation, `x` `[range.len(), width]`, and adds to `sums`. Spans are side by
    /// side: where responses repeat their prompts there are many short ones.
    pub fn apply_rows(&self, range: Range<usize>, width: usize, x: &mut [f32], sums: &mut Sums) {
        assert_eq!(x.len(), range.len() * width, "x must be [{}, {width}]", range.len());
        sums.resize(self.injections.len(), (0, ErrorEnergy::default()));
        let spans: Vec<(Range<usize>, bool)> = self.at.rows().spans(self.point.pass(), range).collect();
        for (injection, sum) in self.injections.iter().zip(sums) {
            let key = injection.keys[self.operand as usize];
            let apply = |(span, x): (Range<usize>, &mut [f32])| {
                injection.perturbation.apply_rows(key, &self.addresses()[span], 0, width, x)
            };
            let mut rest = &mut *x;
            let pieces = spans.iter().map(|(span, _)| (span.clone(), take(&mut rest, span.len() * width)));
            let energies: Vec<ErrorEnergy> = pieces.collect::<Vec<_>>().into_par_iter().map(apply).collect();
            for ((span, counted), energy) in spans.iter().zip(energies) {
                add(sum, *counted, (span.len() * width) as u64, energy);
            }
        }
    }

    /// Counts one pass, made of several parts in this order.
    pub fn count<'s>(&self, parts: impl Iterator<Item = &'s Sums>) {
        if self.injections.is_empty() {
            return;
        }
        let mut totals: Sums = vec![(0, ErrorEnergy::default()); self.injections.len()];
        for part in parts {
            add_sums(&mut totals, part);
        }
        let calls = self.at.calls(self.point, self.operand);
        for (injection, (elements, energy)) in self.injections.iter().zip(totals) {
            self.at.count(injection, self.point, calls, elements, energy);
        }
    }

    fn addresses(&self) -> &'a [Row] {
        self.at.rows().of(self.point.pass())
    }
}

/// Adds what was injected in another part.
pub(crate) fn add_sums(sums: &mut Sums, part: &Sums) {
    sums.resize(sums.len().max(part.len()), (0, ErrorEnergy::default()));
    sums.iter_mut().zip(part).for_each(|(sum, part)| add(sum, true, part.0, part.1));
}

/// The first `len` elements of `rest`, which are taken from it.
fn take<'x>(rest: &mut &'x mut [f32], len: usize) -> &'x mut [f32] {
    rest.split_off_mut(..len).expect("spans cover the rows")
}

fn add(sum: &mut (u64, ErrorEnergy), counted: bool, elements: u64, energy: ErrorEnergy) {
    if counted {
        sum.0 += elements;
        sum.1 += energy;
    }
}
