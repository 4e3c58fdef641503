//! The templates and words of `builtin:arith`: eight kinds of problem for each number of steps.

use super::template::Op::{Minus, Plus, Times};
use super::template::Term::{A, B, C, D, First, Is, Second};
use super::template::{Name, Step, Template};

pub const NAMES: [Name; 8] = [
    Name { name: "Tom", pronoun: "He" },
    Name { name: "Ann", pronoun: "She" },
    Name { name: "Ben", pronoun: "He" },
    Name { name: "Mia", pronoun: "She" },
    Name { name: "Sam", pronoun: "He" },
    Name { name: "Eve", pronoun: "She" },
    Name { name: "Max", pronoun: "He" },
    Name { name: "Zoe", pronoun: "She" },
];

pub const OBJECTS: [&str; 8] = ["apples", "books", "cards", "coins", "eggs", "pens", "shells", "stones"];

/// Numbers to add and to take away.
const SMALL: (u8, u8) = (2, 20);
/// Numbers of the multiplication table.
const TABLE: (u8, u8) = (2, 9);
/// Multipliers of larger numbers.
const FEW: (u8, u8) = (2, 4);

pub const TEMPLATES: [Template; 24] = [
    // One step.
    Template {
        question: "{n} has {a} {o}. {p} buys {b} more. How many {o} does {n} have now?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Plus, B)],
    },
    Template {
        question: "{n} finds {a} {o} in the park and {b} {o} at home. How many {o} in all?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Plus, B)],
    },
    Template {
        question: "{n} has {a} {o} and gives {b} of them to a friend. How many {o} are left?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Minus, B)],
    },
    Template {
        question: "{n} had {a} {o}. {p} lost {b} of them on the way. How many {o} are left?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Minus, B)],
    },
    Template {
        question: "{n} needs {a} {o} but has only {b}. How many more {o} does {n} need?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Minus, B)],
    },
    Template {
        question: "{n} fills {a} bags with {b} {o} each. How many {o} is that in all?",
        ranges: &[TABLE, TABLE],
        steps: &[Step(A, Times, B)],
    },
    Template {
        question: "{n} lays {a} rows of {b} {o} on a table. How many {o} are on the table?",
        ranges: &[TABLE, TABLE],
        steps: &[Step(A, Times, B)],
    },
    Template {
        question: "{n} has {a} {o}. A friend has {b} times as many. How many {o} does the friend have?",
        ranges: &[SMALL, FEW],
        steps: &[Step(A, Times, B)],
    },
    // Two steps.
    Template {
        question: "{n} has {a} {o}. {p} buys {b} more, then gives {c} away. How many {o} are left?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Plus, B), Step(First, Minus, C)],
    },
    Template {
        question: "{n} has {a} {o}. {p} loses {b} and then finds {c} more. How many {o} now?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Minus, B), Step(First, Plus, C)],
    },
    Template {
        question: "{n} has {a} {o}. {p} buys {b} more, then doubles them. How many {o} now?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Plus, B), Step(First, Times, Is(2))],
    },
    Template {
        question: "{n} has {a} {o}. {p} gives {b} away, then triples the rest. How many {o} now?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Minus, B), Step(First, Times, Is(3))],
    },
    Template {
        question: "{n} buys {a} bags of {b} {o} and finds {c} more. How many {o} in all?",
        ranges: &[TABLE, TABLE, SMALL],
        steps: &[Step(A, Times, B), Step(First, Plus, C)],
    },
    Template {
        question: "{n} fills {a} boxes with {b} {o} each, then sells {c} {o}. How many {o} are left?",
        ranges: &[TABLE, TABLE, SMALL],
        steps: &[Step(A, Times, B), Step(First, Minus, C)],
    },
    Template {
        question: "{n} has {a} {o}, and a friend has {b} more than that. How many {o} do both have?",
        ranges: &[SMALL, SMALL],
        steps: &[Step(A, Plus, B), Step(First, Plus, A)],
    },
    Template {
        question: "{n} puts {a} red and {b} blue {o} in each of {c} boxes. How many {o} in all?",
        ranges: &[TABLE, TABLE, FEW],
        steps: &[Step(A, Plus, B), Step(First, Times, C)],
    },
    // Three steps.
    Template {
        question: "{n} has {a} {o}, buys {b} more, loses {c} and then doubles the rest. How many {o} now?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Plus, B), Step(First, Minus, C), Step(Second, Times, Is(2))],
    },
    Template {
        question: "{n} has {a} {o}, loses {b}, finds {c} and then buys {d} more. How many {o} now?",
        ranges: &[SMALL, SMALL, SMALL, SMALL],
        steps: &[Step(A, Minus, B), Step(First, Plus, C), Step(Second, Plus, D)],
    },
    Template {
        question: "{n} has {a} {o}. {p} doubles them, then buys {b} more and sells {c}. How many {o} now?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Times, Is(2)), Step(First, Plus, B), Step(Second, Minus, C)],
    },
    Template {
        question: "{n} has {a} {o}. {p} gives {b} away, triples the rest and buys {c} more. How many {o} now?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Minus, B), Step(First, Times, Is(3)), Step(Second, Plus, C)],
    },
    Template {
        question: "{n} has {a} {o}, buys {b} more, doubles them and then loses {c}. How many {o} now?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Plus, B), Step(First, Times, Is(2)), Step(Second, Minus, C)],
    },
    Template {
        question: "{n} buys {a} bags of {b} {o}, finds {c} more and gives {d} away. How many {o} are left?",
        ranges: &[TABLE, TABLE, SMALL, SMALL],
        steps: &[Step(A, Times, B), Step(First, Plus, C), Step(Second, Minus, D)],
    },
    Template {
        question: "{n} fills {a} bags with {b} {o} each and {c} boxes with {d} {o} each. How many {o} in all?",
        ranges: &[TABLE, TABLE, TABLE, TABLE],
        steps: &[Step(A, Times, B), Step(C, Times, D), Step(First, Plus, Second)],
    },
    Template {
        question: "{n} has {a} {o}. A friend has {b} more. They sell {c} in all. How many {o} are left?",
        ranges: &[SMALL, SMALL, SMALL],
        steps: &[Step(A, Plus, B), Step(First, Plus, A), Step(Second, Minus, C)],
    },
];
