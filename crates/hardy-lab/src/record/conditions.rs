//! The conditions of an evaluation: everything beside the model and the errors that decides what is answered. Two
//! evaluations are only held against each other under the same ones.

use hardy_train::{data::Problem, splitmix};
use serde::{Deserialize, Serialize};

/// What decides an answer beside the model and its errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// How a question is asked, with `{question}` in it.
    pub wording: String,
    /// The system's message, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The chat template's hash; `None` where the question is the whole prompt.
    pub chat_template: Option<String>,
    /// Tokens after which an answer is cut off.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: String,
    /// The arithmetic of the forward pass.
    pub precision: String,
    /// The hash of the problems and their worked answers.
    pub data_fingerprint: String,
    /// The graders of a score, as JSON; `None` where answers are right or wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graders: Option<String>,
}

/// The names of all conditions, as `--allow` takes them.
pub const CONDITIONS: [&str; 8] =
    ["wording", "system", "chat-template", "max-new-tokens", "sampling", "precision", "data", "graders"];

impl Conditions {
    /// The first condition that differs from `other` and is not among `allowed`: its name and both values.
    #[must_use]
    pub fn first_difference(&self, other: &Self, allowed: &[String]) -> Option<[String; 3]> {
        let mine = self.values();
        let pairs = CONDITIONS.iter().zip(mine).zip(other.values());
        let differs = pairs.filter(|((name, _), _)| !allowed.iter().any(|allowed| allowed == *name));
        differs.map(|((name, a), b)| [(*name).to_owned(), a, b]).find(|[_, a, b]| a != b)
    }

    fn values(&self) -> [String; CONDITIONS.len()] {
        [
            format!("{:?}", self.wording),
            self.system.as_ref().map_or_else(|| "none".to_owned(), |text| format!("{text:?}")),
            self.chat_template.clone().unwrap_or_else(|| "none".to_owned()),
            self.max_new_tokens.to_string(),
            self.sampling.clone(),
            self.precision.clone(),
            self.data_fingerprint.clone(),
            self.graders.clone().unwrap_or_else(|| "none".to_owned()),
        ]
    }
}

/// A hash of texts, order counting, in 16 hexadecimal digits.
#[must_use]
pub fn text_hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let words = texts.into_iter().flat_map(|text| {
        let bytes = text.as_bytes().chunks(8);
        let word = |chunk: &[u8]| chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        std::iter::once(text.len() as u64).chain(bytes.map(word))
    });
    format!("{:016x}", splitmix::hash(&words.collect::<Vec<u64>>()))
}

/// The hash of problems, with all turns of those that are conversations, and their worked answers.
#[must_use]
pub fn data_fingerprint(problems: &[Problem]) -> String {
    text_hash(problems.iter().flat_map(|problem| {
        let turns = problem.messages.iter().flat_map(|turn| [turn.role.as_str(), &turn.content]);
        [problem.question.as_str(), &problem.answer].into_iter().chain(turns)
    }))
}

#[cfg(test)]
mod tests {
    use hardy_model::Message;

    use super::*;

    fn usual() -> Conditions {
        Conditions {
            wording: "{question}".into(),
            system: None,
            chat_template: None,
            max_new_tokens: 64,
            sampling: "greedy".into(),
            precision: "f32".into(),
            data_fingerprint: text_hash(["a", "b"]),
            graders: None,
        }
    }

    #[test]
    fn every_condition_counts_by_its_name() {
        let changes: [fn(&mut Conditions); CONDITIONS.len()] = [
            |c| c.wording = "Q: {question}".into(),
            |c| c.system = Some("Be brief.".into()),
            |c| c.chat_template = Some("0".into()),
            |c| c.max_new_tokens = 65,
            |c| c.sampling = "temperature 1".into(),
            |c| c.precision = "bf16".into(),
            |c| c.data_fingerprint = text_hash(["a", "c"]),
            |c| c.graders = Some("[]".into()),
        ];
        for (name, change) in CONDITIONS.into_iter().zip(changes) {
            let mut other = usual();
            change(&mut other);
            let others: Vec<String> =
                CONDITIONS.iter().filter(|other| **other != name).map(|&other| other.to_owned()).collect();
            assert_eq!(usual().first_difference(&other, &others).unwrap()[0], name);
            assert_eq!(usual().first_difference(&other, &[name.to_owned()]), None);
        }
    }

    #[test]
    fn earlier_turns_of_a_conversation_are_data_too() {
        let place = hardy_train::data::Place::Made(0);
        let plain = Problem::new(0, "1+1?".into(), "#### 2".into(), place);
        let turn = |content: &str| Message { role: "user".into(), content: content.into() };
        let after = |shot: &str| Problem { messages: vec![turn(shot), turn("1+1?")], ..plain.clone() };
        let prints =
            [plain.clone(), after("2+2=4"), after("2+2=5")].map(|problem| data_fingerprint(&[problem]));
        assert!(prints[0] != prints[1] && prints[1] != prints[2], "{prints:?}");
    }

    #[test]
    fn the_first_condition_that_differs_is_named_unless_it_is_allowed() {
        let one = usual();
        let other = Conditions { max_new_tokens: 256, ..one.clone() };
        assert_eq!(one.first_difference(&one, &[]), None);
        let found = one.first_difference(&other, &[]).unwrap();
        assert_eq!(found, ["max-new-tokens", "64", "256"]);
        assert_eq!(one.first_difference(&other, &["max-new-tokens".into()]), None);
    }

    #[test]
    fn texts_are_told_apart_by_where_they_end() {
        assert_ne!(text_hash(["ab", "c"]), text_hash(["a", "bc"]));
        assert_eq!(text_hash(["ab"]), text_hash(["ab"]));
    }
}
