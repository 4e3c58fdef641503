use super::*;

const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

fn texts() -> Vec<String> {
    let names = ["Mia", "Jonas", "Ada"];
    (0..60)
        .map(|i| {
            format!("<|im_start|>{} has {} apples and buys {} more.<|im_end|>", names[i % 3], i * 7 % 50, i)
        })
        .collect()
}

fn trained() -> Tokenizer {
    Tokenizer::train(&texts(), 300, &SPECIAL).unwrap()
}

#[test]
fn training_twice_gives_the_same_file() {
    assert_eq!(trained().json, trained().json);
    let mut reversed = texts();
    reversed.reverse();
    assert_eq!(Tokenizer::train(&reversed, 300, &SPECIAL).unwrap().json, trained().json);
}

/// Hash maps are seeded anew in every process; this digest was written by another one.
#[test]
fn training_in_another_process_gives_the_same_file() {
    let digest = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    assert_eq!(digest(&trained().json), 3_333_866_448_035_009_044);
}

#[test]
fn special_tokens_come_first_and_are_one_token_each() {
    let tokenizer = trained();
    for (id, token) in SPECIAL.iter().enumerate() {
        assert_eq!(tokenizer.id(token), Some(id as u32));
        assert_eq!(tokenizer.encode(token).unwrap(), [id as u32]);
    }
    let ids = tokenizer.encode("<|im_start|>Mia<|im_end|>").unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (1, 2));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Mia");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>Mia<|im_end|>");
}

#[test]
fn frequent_words_become_tokens_and_digits_stay_single() {
    let tokenizer = trained();
    assert_eq!(tokenizer.encode(" apples").unwrap().len(), 1);
    assert_eq!(tokenizer.encode("1234").unwrap().len(), 4);
    assert_eq!(Tokenizer::train(&texts(), 270, &SPECIAL).unwrap().vocab_size(), 270);
}

#[test]
fn a_vocabulary_ends_where_no_pair_occurs_twice() {
    let tokenizer = Tokenizer::train(&["abab cd".to_owned()], 1000, &[]).unwrap();
    assert_eq!(tokenizer.vocab_size(), 257);
    assert_eq!(tokenizer.encode("abab").unwrap(), [256, 256]);
}

#[test]
fn every_text_comes_back() {
    let tokenizer = trained();
    for text in ["", " ", "caf\u{e9} \u{1f600}\n\n\tx  y", "2 + 2 = 4\u{0}", "Mia's 3/4"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), false).unwrap(), text);
    }
}

#[test]
fn saving_and_loading_keeps_every_byte_and_the_named_tokens() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut tokenizer = trained();
    tokenizer.set_special("<|im_end|>", "<|endoftext|>").unwrap();
    tokenizer.save(first.path()).unwrap();
    let loaded = Tokenizer::from_dir(first.path()).unwrap();
    assert_eq!((loaded.eos(), loaded.pad()), (Some(2), Some(0)));
    loaded.save(second.path()).unwrap();
    for name in [FILE, CONFIG] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert_eq!(read(first.path()), read(second.path()));
    }
}

#[test]
fn a_named_token_may_be_an_object_or_stand_in_the_map() {
    let dir = tempfile::tempdir().unwrap();
    trained().save(dir.path()).unwrap();
    let eos = r#"{"eos_token": {"content": "<|im_end|>", "lstrip": false}, "pad_token": null}"#;
    std::fs::write(dir.path().join(CONFIG), eos).unwrap();
    std::fs::write(dir.path().join("special_tokens_map.json"), r#"{"pad_token": "<|endoftext|>"}"#).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.pad()), (Some(2), Some(0)));
}

#[test]
fn bad_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        Tokenizer::from_dir(dir.path()).unwrap_err().to_string().contains("tokenizer.json: cannot be read")
    );
    std::fs::write(dir.path().join(FILE), "{\"version\": \"1.0\"").unwrap();
    assert!(Tokenizer::from_dir(dir.path()).unwrap_err().to_string().contains("tokenizer.json: tokenizer: "));
    let small = Tokenizer::train(&texts(), 100, &SPECIAL).unwrap_err().to_string();
    assert!(small.contains("vocab_size is 100") && small.contains("need 259"), "{small}");
    assert!(Tokenizer::train(&texts(), 300, &["<a>", "<a>"]).is_err());
    assert!(Tokenizer::train(&texts(), 300, &[""]).is_err());
    let unknown = trained().set_special("<end>", "<|endoftext|>").unwrap_err().to_string();
    assert!(unknown.contains("has no token `<end>`"), "{unknown}");
}

#[test]
fn truncation_and_padding_of_the_file_are_not_applied() {
    let truncation =
        r#""truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}"#;
    let json = String::from_utf8(trained().json).unwrap().replace(r#""truncation": null"#, truncation);
    let tokenizer = Tokenizer::from_json(json.into_bytes(), PathBuf::from(FILE)).unwrap();
    assert_eq!(tokenizer.encode("1234").unwrap().len(), 4);
}
