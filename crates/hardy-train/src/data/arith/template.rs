//! A template: a question with gaps, the ranges of its numbers, and the steps that answer it.

use std::fmt::Write as _;

use self::Op::{Minus, Plus, Times};

/// Results stay within two digits, and above zero so that what follows makes sense ("doubles the rest").
const RESULTS: std::ops::RangeInclusive<i32> = 1..=99;

/// The numbers of a problem, in the order of the gaps `{a}` to `{d}`; unused ones are 0.
pub type Numbers = [u8; 4];

/// A person in a question.
#[derive(Debug)]
pub struct Name {
    pub name: &'static str,
    pub pronoun: &'static str,
}

/// An operand of a step.
#[derive(Debug, Clone, Copy)]
pub enum Term {
    /// The number in the gap `{a}`, `{b}`, `{c}` or `{d}`.
    A,
    B,
    C,
    D,
    /// The result of the first or the second step.
    First,
    Second,
    /// A number that the words say ("doubles").
    Is(u8),
}

/// What a step does with its operands.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Plus,
    Minus,
    Times,
}

/// One line of a worked answer.
#[derive(Debug)]
pub struct Step(pub Term, pub Op, pub Term);

/// A kind of problem; `{n}` stands for a name, `{p}` for its pronoun, `{o}` for the objects.
#[derive(Debug)]
pub struct Template {
    pub question: &'static str,
    /// Smallest and largest value of each number.
    pub ranges: &'static [(u8, u8)],
    pub steps: &'static [Step],
}

impl Template {
    /// Every choice of numbers within the ranges whose results, all of them, are between 1 and 99.
    pub fn numbers(&self) -> Vec<Numbers> {
        let mut all = Vec::new();
        self.extend(&mut all, Numbers::default(), 0);
        all
    }

    fn extend(&self, all: &mut Vec<Numbers>, mut numbers: Numbers, gap: usize) {
        let Some(&(low, high)) = self.ranges.get(gap) else {
            if self.results(&numbers).is_some() {
                all.push(numbers);
            }
            return;
        };
        for value in low..=high {
            numbers[gap] = value;
            self.extend(all, numbers, gap + 1);
        }
    }

    /// The result of each step, unless one is out of bounds; steps that do not exist give 0.
    fn results(&self, numbers: &Numbers) -> Option<[i32; 3]> {
        let mut results = [0; 3];
        for (i, Step(left, op, right)) in self.steps.iter().enumerate() {
            let (left, right) = (left.value(numbers, &results), right.value(numbers, &results));
            results[i] = match op {
                Plus => left + right,
                Minus => left - right,
                Times => left * right,
            };
            if !RESULTS.contains(&results[i]) {
                return None;
            }
        }
        Some(results)
    }

    /// The question with its gaps filled.
    pub fn question(&self, numbers: &Numbers, name: &Name, object: &str) -> String {
        let mut question =
            self.question.replace("{n}", name.name).replace("{p}", name.pronoun).replace("{o}", object);
        for (gap, number) in ["{a}", "{b}", "{c}", "{d}"].into_iter().zip(numbers) {
            question = question.replace(gap, &number.to_string());
        }
        question
    }

    /// The worked answer: a line `left op right=result` per step, then `#### N`.
    pub fn answer(&self, numbers: &Numbers) -> String {
        let results = self.results(numbers).expect("only numbers with results within bounds are listed");
        let mut answer = String::new();
        for (Step(left, op, right), result) in self.steps.iter().zip(results) {
            let sign = match op {
                Plus => '+',
                Minus => '-',
                Times => '*',
            };
            let (left, right) = (left.value(numbers, &results), right.value(numbers, &results));
            writeln!(answer, "{left}{sign}{right}={result}").expect("a String takes any text");
        }
        answer + &format!("#### {}", results[self.steps.len() - 1])
    }
}

impl Term {
    fn value(self, numbers: &Numbers, results: &[i32; 3]) -> i32 {
        match self {
            Self::A => numbers[0].into(),
            Self::B => numbers[1].into(),
            Self::C => numbers[2].into(),
            Self::D => numbers[3].into(),
            Self::First => results[0],
            Self::Second => results[1],
            Self::Is(number) => number.into(),
        }
    }
}
