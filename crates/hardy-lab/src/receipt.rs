//! Receipts for people: what a group of them says of values that are not finite. The receipts themselves are
//! [`hardy_ops::Receipt`]s, and every table shows them as [`hardy_ops::group_receipts`] groups them.

use hardy_ops::Receipt;

use crate::format::short_count;

/// How many of the elements are not finite, as in "non-finite: 3 of 1.2 M"; `None` where all are.
#[must_use]
pub fn non_finite(receipt: &Receipt) -> Option<String> {
    let count = |n: u64| short_count(n as f64);
    (receipt.non_finite > 0)
        .then(|| format!("non-finite: {} of {}", count(receipt.non_finite), count(receipt.elements)))
}
