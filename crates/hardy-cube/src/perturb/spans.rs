//! The rows of a tensor as kernels walk them: where their values and their addresses are.

use super::Layout;
use crate::device::array;
use crate::philox::Address;
use crate::rule::{Numbers, Place};
use cubecl::prelude::*;

/// The rows of a tensor for a kernel.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Spans {
    rows: Array<u32>,
    slots: Array<u32>,
    pub count: u32,
    pub width: u32,
    /// Blocks of a row.
    pub blocks: u32,
    first_slot: u32,
    heads: u32,
    window: u32,
}

pub(super) fn spans_of<R: Runtime>(
    layout: Layout,
    count: usize,
    width: usize,
    blocks: usize,
) -> SpansLaunch<R> {
    let [slots, first_slot, heads, window] = layout.attention;
    SpansLaunch::new(
        array(layout.rows, (4 * layout.table).max(1)),
        array(layout.slots, (8 * slots).max(1)),
        count as u32,
        width as u32,
        blocks as u32,
        first_slot as u32,
        heads as u32,
        u32::try_from(window).unwrap_or(u32::MAX),
    )
}

/// A row: its values `start .. end`, its first one at `offset`, the address of value `j` being element `element + j`.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Span {
    pub offset: u32,
    pub start: u32,
    pub end: u32,
    pub element: u32,
    pub position: u32,
    pub sequence_low: u32,
    pub sequence_high: u32,
    pub counted: u32,
}

#[cube]
impl Spans {
    pub fn get(&self, index: u32, #[comptime] place: Place) -> Span {
        let mut span = Span {
            offset: index * self.width,
            start: 0u32,
            end: self.width,
            element: 0u32,
            position: 0u32,
            sequence_low: 0u32,
            sequence_high: 0u32,
            counted: 1u32,
        };
        if comptime!(place == Place::Weight) {
            span.element = index * self.width;
        } else if comptime!(place == Place::Rows) {
            let row = index as usize * 4;
            span.position = self.rows[row];
            span.sequence_low = self.rows[row + 1];
            span.sequence_high = self.rows[row + 2];
            span.counted = self.rows[row + 3];
        } else {
            let slot = (self.first_slot + index / self.heads) as usize * 8;
            span.end = 0u32;
            let row = self.slots[slot];
            if row != 0xFFFF_FFFFu32 {
                span.end = self.slots[slot + 2] + self.slots[slot + 4] + 1u32;
                span.start = select(span.end > self.window, span.end - self.window, 0u32);
                span.element = (index % self.heads) << 20u32;
                let row = row as usize * 4;
                span.position = self.rows[row];
                span.sequence_low = self.rows[row + 1];
                span.sequence_high = self.rows[row + 2];
                span.counted = self.rows[row + 3];
            }
        }
        span
    }
}

#[cube]
pub(super) fn address(numbers: &Numbers, span: &Span) -> Address {
    Address {
        key_low: numbers.key_low,
        key_high: numbers.key_high,
        position: span.position,
        sequence_low: span.sequence_low,
        sequence_high: span.sequence_high,
    }
}
