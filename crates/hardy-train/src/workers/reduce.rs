//! Gradients summed over workers: each has the sums of its places in a tree, and all get the sum of the whole tree.

use hardy_ops::GradientSums;

use super::Workers;
use crate::{
    error::Result,
    tree::{Node, Summand, Tree},
};

impl Summand for GradientSums {
    fn add(&mut self, right: Self) {
        self.add(right);
    }
}

impl Summand for Vec<f32> {
    fn add(&mut self, right: Self) {
        self.iter_mut().zip(right).for_each(|(x, right)| *x += right);
    }
}

/// The sum over the trees of all workers, whose places follow one another.
///
/// # Errors
/// A worker that is gone.
pub fn reduce(workers: &Workers, own: Tree<GradientSums>) -> Result<GradientSums> {
    if workers.size() == 1 {
        return Ok(own.sum().unwrap_or_default());
    }
    let nodes = own.nodes();
    let mut lengths: Vec<usize> = Vec::new();
    let places: Vec<(usize, usize)> = nodes.iter().map(|node| (node.start, node.len)).collect();
    let own: Vec<Vec<usize>> = nodes.iter().map(|node| node.sum.lengths()).collect();
    // What nobody added to has no length; what only some did has theirs.
    let mut all_places = Vec::new();
    for (places, all) in workers.gather((places, own))? {
        all_places.push(places);
        for one in all {
            lengths.resize(lengths.len().max(one.len()), 0);
            lengths.iter_mut().zip(one).for_each(|(most, len)| *most = len.max(*most));
        }
    }
    let vectors: Vec<Vec<f32>> = nodes.into_iter().map(|node| node.sum.flat(&lengths)).collect();
    let sum = |vectors: Vec<Vec<Vec<f32>>>| {
        let mut tree = Tree::default();
        for (places, vectors) in all_places.iter().zip(vectors) {
            for (&(start, len), sum) in places.iter().zip(vectors) {
                tree.push(Node { start, len, sum });
            }
        }
        tree.sum().unwrap_or_default()
    };
    let reduced = workers.reduce(&vectors, lengths.iter().sum(), sum)?;
    Ok(GradientSums::from_flat(&reduced, &lengths))
}
