//! Sums whose order of adding is a fixed binary tree over the places of their terms: floating-point addition is not
//! associative, but with the tree fixed all get the same bits, whoever adds up which of the terms.

/// What is added up.
pub trait Summand {
    /// `self + right`, where `right` lies to the right in the tree.
    fn add(&mut self, right: Self);
}

/// Nodes of the tree over the places `start..start + len`, in order; `len` is a power of two and divides `start`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<T> {
    /// The first place.
    pub start: usize,
    /// How many places it sums over.
    pub len: usize,
    /// Their sum.
    pub sum: T,
}

/// Neighbouring nodes, as few as can be: of `n` terms at most log₂ n + 1 sums are held at once where they come from the
/// first place on.
#[derive(Clone, Debug)]
pub struct Tree<T>(Vec<Node<T>>);

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Summand> Tree<T> {
    /// Adds the next node to the right, and joins what the tree joins.
    pub fn push(&mut self, node: Node<T>) {
        let mut right = node;
        while let Some(left) = self.0.pop_if(|left| left.len == right.len && left.start % (2 * left.len) == 0)
        {
            right = Self::join(left, right);
        }
        self.0.push(right);
    }

    /// Adds the term at the next place.
    pub fn term(&mut self, start: usize, sum: T) {
        self.push(Node { start, len: 1, sum });
    }

    /// The nodes that could not be joined, for whoever has their neighbours.
    pub fn nodes(self) -> Vec<Node<T>> {
        self.0
    }

    /// The sum over all places, of which the first came first; `None` of nothing.
    pub fn sum(mut self) -> Option<T> {
        let mut right = self.0.pop()?;
        while let Some(left) = self.0.pop() {
            right = Self::join(left, right);
        }
        Some(right.sum)
    }

    fn join(mut left: Node<T>, right: Node<T>) -> Node<T> {
        left.sum.add(right.sum);
        Node { len: left.len + right.len, ..left }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Summand for f32 {
        fn add(&mut self, right: Self) {
            *self += right;
        }
    }

    impl Summand for String {
        fn add(&mut self, right: Self) {
            *self = format!("({self} {right})");
        }
    }

    #[test]
    fn the_order_is_a_binary_tree_over_places() {
        let shown = |n: usize| {
            let mut tree = Tree::default();
            (0..n).for_each(|place| tree.term(place, place.to_string()));
            tree.sum().unwrap()
        };
        assert_eq!([1, 2, 3].map(shown), ["0", "(0 1)", "((0 1) 2)"]);
        assert_eq!(shown(7), "(((0 1) (2 3)) ((4 5) 6))");
        assert_eq!(shown(8), "(((0 1) (2 3)) ((4 5) (6 7)))");
    }

    proptest! {
        #[test]
        fn the_sum_does_not_depend_on_who_adds_which(
            terms in prop::collection::vec(-1e6f32..1e6, 1..40), cuts in prop::collection::vec(0usize..40, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(terms.len())).chain([0, terms.len()]).collect();
            cuts.sort_unstable();
            let mut alone = Tree::default();
            terms.iter().enumerate().for_each(|(place, &term)| alone.term(place, term));
            let mut joined = Tree::default();
            for cut in cuts.windows(2) {
                let mut worker = Tree::default();
                (cut[0]..cut[1]).for_each(|place| worker.term(place, terms[place]));
                worker.nodes().into_iter().for_each(|node| joined.push(node));
            }
            prop_assert_eq!(alone.sum().map(f32::to_bits), joined.sum().map(f32::to_bits));
        }
    }
}
