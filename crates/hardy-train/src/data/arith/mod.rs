//! `builtin:arith`: arithmetic word problems of one to three steps, with every intermediate result written out.
//!
//! A problem is a template, its numbers and its words (a name and an object). The numbers of each template are divided
//! between the splits once and for all, whatever the seed, so no numbers of a held-out problem were ever trained on in
//! the same template; the seed only orders the problems of a split.

mod template;
mod templates;

use std::sync::OnceLock;

use self::template::{Numbers, Template};
use self::templates::{NAMES, OBJECTS, TEMPLATES};
use super::permutation::Permutation;
use super::{Place, Problem, Split};
use crate::splitmix::hash;

/// Every character that a question or an answer, in whatever closing style, can hold, in order.
pub const ALPHABET: &str = "\n #*+,-.0123456789=?ABEHMSTZ\\abcdefghiklmnoprstuvwxy{}";

/// One in this many choices of numbers of a template is held out.
const HELD_OUT: u64 = 5;
/// Keys of the two permutations, and of the division into splits, which no seed changes.
const DIVISION: u64 = 1;
const ORDER: u64 = 2;
const ROUND: u64 = 3;

/// The problems of one split in the order of one seed; problem `i` can be asked for without those before it.
#[derive(Debug, Clone, Copy)]
pub struct Arith {
    seed: u64,
    split: Split,
}

impl Arith {
    /// The problems of `split`, ordered by `seed`.
    pub fn new(seed: u64, split: Split) -> Self {
        Self { seed, split }
    }

    /// Problem `i` of the split: in each round of as many problems as there are templates, every template comes once.
    pub fn problem(&self, i: u64) -> Problem {
        let templates = TEMPLATES.len() as u64;
        let round = i / templates;
        let order = Permutation::new(templates, hash(&[ROUND, self.split as u64, self.seed, round]));
        let which = order.at(i % templates) as usize;
        let size = self.size(which);
        let place = Permutation::new(size, hash(&[ORDER, self.split as u64, self.seed, which as u64]));
        let (question, answer) = self.render(which, place.at(round % size));
        Problem::new(i, question, answer, Place::Made(i))
    }

    /// The first `n` problems of the split.
    pub fn problems(&self, n: usize) -> Vec<Problem> {
        (0..n as u64).map(|i| self.problem(i)).collect()
    }

    /// How many different problems the split holds.
    pub fn distinct(&self) -> u64 {
        (0..TEMPLATES.len()).map(|which| self.size(which)).sum()
    }

    /// How many problems, from the first, are guaranteed to be all different.
    pub fn before_repetition(&self) -> u64 {
        let smallest = (0..TEMPLATES.len()).map(|which| self.size(which)).min().unwrap_or(0);
        smallest * TEMPLATES.len() as u64
    }

    /// How many different problems of a template the split holds.
    fn size(&self, which: usize) -> u64 {
        self.choices(which) * surfaces()
    }

    /// How many choices of numbers of a template belong to the split.
    fn choices(&self, which: usize) -> u64 {
        let all = numbers(which).len() as u64;
        let held_out = all / HELD_OUT;
        match self.split {
            Split::Eval => held_out,
            Split::Train => all - held_out,
        }
    }

    /// Question and answer of the problem at `place` among those of the split's template `which`.
    fn render(&self, which: usize, place: u64) -> (String, String) {
        let (choice, surface) = (place / surfaces(), place % surfaces());
        let all = numbers(which);
        let division = Permutation::new(all.len() as u64, hash(&[DIVISION, which as u64]));
        let first = match self.split {
            Split::Eval => 0,
            Split::Train => all.len() as u64 - self.choices(which),
        };
        let numbers = &all[division.at(first + choice) as usize];
        let name = &NAMES[(surface / OBJECTS.len() as u64) as usize];
        let object = OBJECTS[(surface % OBJECTS.len() as u64) as usize];
        let template = &TEMPLATES[which];
        (template.question(numbers, name, object), template.answer(numbers))
    }
}

/// How many ways there are to choose the words of a problem.
fn surfaces() -> u64 {
    (NAMES.len() * OBJECTS.len()) as u64
}

/// Every choice of numbers of a template, listed once per process.
fn numbers(which: usize) -> &'static [Numbers] {
    static ALL: OnceLock<Vec<Vec<Numbers>>> = OnceLock::new();
    &ALL.get_or_init(|| TEMPLATES.iter().map(Template::numbers).collect())[which]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::super::{AnswerStyle, styled_answer};
    use super::*;
    use crate::reward::{Extraction, score};

    const SPLITS: [Split; 2] = [Split::Train, Split::Eval];

    fn questions(seed: u64, split: Split, n: usize) -> HashSet<String> {
        Arith::new(seed, split).problems(n).into_iter().map(|problem| problem.question).collect()
    }

    #[test]
    fn problems_depend_on_seed_and_index_alone() {
        for split in SPLITS {
            let problems = Arith::new(3, split).problems(100);
            assert_eq!(problems, Arith::new(3, split).problems(200)[..100]);
            assert_ne!(problems, Arith::new(4, split).problems(100));
            assert!(problems.iter().enumerate().all(|(i, p)| p.id == i as u64));
        }
    }

    #[test]
    fn no_problem_repeats_among_the_first_ten_thousand() {
        for split in SPLITS {
            assert!(Arith::new(0, split).before_repetition() >= 10_000);
            assert_eq!(questions(1, split, 10_000).len(), 10_000);
        }
    }

    #[test]
    fn train_and_eval_are_disjoint_whatever_the_seeds() {
        let train = questions(1, Split::Train, 40_000);
        assert!(train.is_disjoint(&questions(1, Split::Eval, 10_000)));
        assert!(train.is_disjoint(&questions(2, Split::Eval, 10_000)));
    }

    #[test]
    fn no_numbers_of_a_template_are_in_both_splits() {
        for which in 0..TEMPLATES.len() {
            let all = |split| {
                let arith = Arith::new(0, split);
                (0..arith.choices(which))
                    .map(|choice| arith.render(which, choice * surfaces()).0)
                    .collect::<HashSet<_>>()
            };
            let (train, eval) = (all(Split::Train), all(Split::Eval));
            assert!(train.is_disjoint(&eval));
            assert_eq!(train.len() + eval.len(), numbers(which).len());
        }
    }

    #[test]
    fn there_are_enough_problems_that_held_out_ones_are_unseen() {
        assert!(Arith::new(0, Split::Train).distinct() + Arith::new(0, Split::Eval).distinct() > 200_000);
        let skeletons: usize = (0..TEMPLATES.len()).map(|which| numbers(which).len()).sum();
        assert!(skeletons > 100_000, "{skeletons}");
    }

    #[test]
    fn problems_are_short() {
        for problem in Arith::new(0, Split::Train).problems(5000) {
            assert!((50..=115).contains(&problem.question.len()), "{}", problem.question);
            assert!(problem.answer.len() <= 40, "{}", problem.answer);
        }
    }

    #[test]
    fn the_alphabet_is_exactly_what_is_used() {
        let mut used = BTreeSet::new();
        for problem in Arith::new(0, Split::Train).problems(5000) {
            used.extend(problem.question.chars());
            used.extend(styled_answer(&problem, problem.id, 0.15, 0).chars());
        }
        assert_eq!(used.into_iter().collect::<String>(), ALPHABET);
        let closings: String = AnswerStyle::ALL.iter().map(|style| style.closing("0123456789")).collect();
        assert!(closings.chars().all(|c| ALPHABET.contains(c)));
    }

    /// Computes `left op right` of a line `left op right=result`.
    fn check_line(line: &str) -> i64 {
        let (expression, result) = line.split_once('=').unwrap();
        let at = expression.find(['+', '-', '*']).unwrap();
        let number = |text: &str| text.parse::<i64>().unwrap();
        let (left, right) = (number(&expression[..at]), number(&expression[at + 1..]));
        let value = match &expression[at..=at] {
            "+" => left + right,
            "-" => left - right,
            _ => left * right,
        };
        assert_eq!(value, number(result), "{line}");
        value
    }

    proptest! {
        #[test]
        fn every_line_of_a_worked_answer_is_true_and_the_last_is_the_answer(
            seed: u64, i in 0u64..1_000_000, held_out: bool,
        ) {
            let split = if held_out { Split::Eval } else { Split::Train };
            let problem = Arith::new(seed, split).problem(i);
            let values: Vec<i64> = problem.steps().lines().map(check_line).collect();
            prop_assert!((1..=3).contains(&values.len()));
            prop_assert!(values.iter().all(|value| (1..=99).contains(value)));
            prop_assert_eq!(values.last().unwrap().to_string(), problem.truth.as_str());
            prop_assert_eq!(score(&problem.answer, &problem.truth, Extraction::Strict), 1.0);
        }
    }
}
