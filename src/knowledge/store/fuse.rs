//! One ranking out of two: reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).
//!
//! A question's score is the sum over the rankings of `weight / (K + place)`. Only places count: the scores
//! behind them are of different kinds and cannot be added.

use std::collections::HashMap;
use std::hash::Hash;

/// How slowly a place loses worth. The paper has 60, under which the tenth place by words counts nearly as much as
/// the first; words of a query that mean something else then spoil what was found by meaning. Chosen on the tuning
/// half of the labelled queries.
const K: f32 = 10.0;

/// An entry of the fused ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused<T> {
    /// What.
    pub item: T,
    /// How good.
    pub score: f32,
    /// Its place by meaning, from 1.
    pub dense_rank: Option<usize>,
    /// Its place by words, from 1.
    pub text_rank: Option<usize>,
}

/// Fuses two rankings, each best first and without repetition; `text_weight` is what a place by words is worth, with
/// one by meaning at 1. Equal scores come in the order of the items.
pub fn fuse<T: Copy + Eq + Hash + Ord>(dense: &[T], text: &[T], text_weight: f32) -> Vec<Fused<T>> {
    let mut all: HashMap<T, Fused<T>> = HashMap::new();
    let new = |item| Fused { item, score: 0.0, dense_rank: None, text_rank: None };
    for (i, item) in dense.iter().enumerate() {
        let entry = all.entry(*item).or_insert_with(|| new(*item));
        entry.dense_rank = Some(i + 1);
        entry.score += worth(i + 1);
    }
    for (i, item) in text.iter().enumerate() {
        let entry = all.entry(*item).or_insert_with(|| new(*item));
        entry.text_rank = Some(i + 1);
        entry.score += text_weight * worth(i + 1);
    }
    let mut fused: Vec<_> = all.into_values().collect();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
    fused
}

fn worth(place: usize) -> f32 {
    1.0 / (K + place as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(dense: &[u32], text: &[u32]) -> Vec<u32> {
        fuse(dense, text, 0.3).iter().map(|fused| fused.item).collect()
    }

    #[test]
    fn what_both_rankings_know_comes_first() {
        assert_eq!(order(&[1, 2, 3], &[9, 2, 8])[0], 2);
        assert_eq!(order(&[1, 2, 3], &[9, 8])[..3], [1, 2, 3]);
    }

    #[test]
    fn words_count_as_much_as_they_are_said_to() {
        let first = |weight| fuse(&[1, 2, 3], &[3], weight)[0].item;
        assert_eq!((first(0.0), first(0.1), first(3.0)), (1, 1, 3));
    }

    #[test]
    fn one_ranking_alone_keeps_its_order() {
        assert_eq!(order(&[5, 4, 6], &[]), [5, 4, 6]);
        assert_eq!(order(&[], &[5, 4, 6]), [5, 4, 6]);
        assert!(order(&[], &[]).is_empty());
    }

    #[test]
    fn places_are_told_from_one() {
        let fused = fuse(&[7], &[8, 7], 0.3);
        assert_eq!((fused[0].item, fused[0].dense_rank, fused[0].text_rank), (7, Some(1), Some(2)));
        assert_eq!((fused[1].item, fused[1].dense_rank, fused[1].text_rank), (8, None, Some(1)));
    }
}
