//! Byte-pair encoding learned from text: again and again the most frequent pair of neighbouring tokens becomes a
//! token. Counts are integers and ties are broken by text, so that nothing depends on the order of a hash map.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};

type Pair = (u32, u32);
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Digits one by one, then the words of GPT-2 in the alphabet that writes a byte as one character.
fn pre_tokenizer() -> Value {
    json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Digits", "individual_digits": true },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
    ]})
}

/// The `tokenizer.json` of a byte-level BPE tokenizer learned from `texts`.
pub(super) fn tokenizer_json(
    texts: &[String],
    vocab_size: usize,
    special: &[&str],
) -> Result<String, Failure> {
    let mut tokens: Vec<String> = special.iter().map(|token| (*token).to_owned()).collect();
    let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
    tokens.extend(alphabet.iter().map(char::to_string));
    if tokens.len() > vocab_size {
        let (least, bytes) = (tokens.len(), alphabet.len());
        return Err(
            format!("vocab_size is {vocab_size}; {bytes} bytes and special tokens need {least}").into()
        );
    }
    if special.contains(&"") || tokens.iter().collect::<BTreeSet<_>>().len() < tokens.len() {
        return Err("special tokens must not be empty or equal to each other or to a byte".into());
    }
    let mut learner = Learner::new(tokens, &words(texts, special)?);
    while learner.tokens.len() < vocab_size && learner.merge_most_frequent() {}
    Ok(format!("{:#}\n", document(special, &learner)))
}

/// How often each word occurs, in the byte-level alphabet; special tokens are no words.
fn words(texts: &[String], special: &[&str]) -> Result<BTreeMap<String, u64>, Failure> {
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer())?;
    let mut words = BTreeMap::new();
    for text in texts {
        let whole = vec![text.as_str()];
        let pieces =
            special.iter().fold(whole, |pieces, token| pieces.iter().flat_map(|p| p.split(token)).collect());
        for piece in pieces {
            let mut piece = PreTokenizedString::from(piece);
            pre_tokenizer.pre_tokenize(&mut piece)?;
            for (word, _, _) in piece.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(words)
}

struct Learner {
    /// Token texts by id.
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    merges: Vec<Pair>,
    /// Every distinct word as tokens, and how often it occurs.
    words: Vec<(Vec<u32>, u64)>,
    /// How often each pair occurs.
    counts: BTreeMap<Pair, u64>,
    /// The words that hold a pair, or once held it.
    places: HashMap<Pair, BTreeSet<usize>>,
}

impl Learner {
    fn new(tokens: Vec<String>, words: &BTreeMap<String, u64>) -> Self {
        let ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
        let spell = |word: &String| word.chars().map(|c| ids[c.encode_utf8(&mut [0; 4]) as &str]).collect();
        let words: Vec<(Vec<u32>, u64)> = words.iter().map(|(word, count)| (spell(word), *count)).collect();
        let (counts, places) = (BTreeMap::new(), HashMap::new());
        let mut learner = Self { tokens, ids, merges: Vec::new(), words, counts, places };
        (0..learner.words.len()).for_each(|word| learner.add(word));
        learner
    }

    /// Makes a token of the most frequent pair; false when no pair occurs twice.
    fn merge_most_frequent(&mut self) -> bool {
        let text = |(left, right): Pair| (&self.tokens[left as usize], &self.tokens[right as usize]);
        let often = self.counts.iter().filter(|(_, count)| **count > 1);
        let Some((&pair, _)) = often.max_by_key(|&(&pair, &count)| (count, Reverse(text(pair)))) else {
            return false;
        };
        let merged = format!("{}{}", self.tokens[pair.0 as usize], self.tokens[pair.1 as usize]);
        let token = self.id(merged);
        self.merges.push(pair);
        for word in self.places.remove(&pair).unwrap_or_default() {
            self.subtract(word);
            self.words[word].0 = replace(&self.words[word].0, pair, token);
            self.add(word);
        }
        true
    }

    /// The id of a text, which two different merges may spell.
    fn id(&mut self, text: String) -> u32 {
        let next = self.tokens.len() as u32;
        let id = *self.ids.entry(text.clone()).or_insert(next);
        if id == next {
            self.tokens.push(text);
        }
        id
    }

    fn add(&mut self, word: usize) {
        let (tokens, count) = &self.words[word];
        for pair in tokens.windows(2).map(|pair| (pair[0], pair[1])) {
            *self.counts.entry(pair).or_default() += count;
            self.places.entry(pair).or_default().insert(word);
        }
    }

    fn subtract(&mut self, word: usize) {
        let (tokens, count) = &self.words[word];
        for pair in tokens.windows(2).map(|pair| (pair[0], pair[1])) {
            if let Some(total) = self.counts.get_mut(&pair) {
                *total -= count;
            }
        }
    }
}

/// `tokens` with every `pair` replaced by `token`, from the left.
fn replace(tokens: &[u32], pair: Pair, token: u32) -> Vec<u32> {
    let mut replaced = Vec::with_capacity(tokens.len());
    let mut rest = tokens;
    while let [first, tail @ ..] = rest {
        let found = *first == pair.0 && tail.first() == Some(&pair.1);
        replaced.push(if found { token } else { *first });
        rest = if found { &tail[1..] } else { tail };
    }
    replaced
}

fn document(special: &[&str], learner: &Learner) -> Value {
    let added = |(id, token): (usize, &&str)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let text = |id: u32| &learner.tokens[id as usize];
    let vocab = learner.tokens.iter().zip(0..).map(|(token, id): (_, u32)| (token.clone(), id.into()));
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": Value::Object(vocab.collect()),
            "merges": learner.merges.iter().map(|&(left, right)| [text(left), text(right)]).collect::<Vec<_>>(),
        },
    })
}
