//! Model directories written by `transformers` are read as it meant them. `HARDY_GOLDEN` names the directory that
//! holds them; without it the tests say so and pass.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hardy_model::files::{read_checkpoint, read_tensors, write_tensors};
use hardy_model::{ChatTemplate, Dtype, Message, ModelConfig, Tokenizer};
use tempfile::tempdir;

/// The subdirectories with a `config.json`, sorted.
fn checkpoints() -> Vec<PathBuf> {
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(named);
    let Ok(entries) = fs::read_dir(&root) else {
        println!("skipped: there is no directory {}; set HARDY_GOLDEN", root.display());
        return Vec::new();
    };
    let mut found: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    found.sort();
    found
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn golden_checkpoints_hold_exactly_the_parameters_of_their_config() {
    for dir in checkpoints() {
        let config = ModelConfig::from_dir(&dir).unwrap();
        let asked: BTreeSet<_> = config.parameters().into_iter().map(|spec| spec.name).collect();
        assert_eq!(read_checkpoint(&dir, &config.parameters()).unwrap().len(), asked.len());
        let whole = dir.join("model.safetensors");
        if whole.exists() {
            let found: BTreeSet<_> =
                read_tensors(&whole).unwrap().tensors.into_iter().map(|t| t.name).collect();
            assert_eq!(found, asked, "{}", dir.display());
        }
    }
}

#[test]
fn golden_gradients_have_the_names_of_parameters() {
    for dir in checkpoints() {
        let golden = read_tensors(&dir.join("golden.safetensors")).unwrap();
        for spec in ModelConfig::from_dir(&dir).unwrap().parameters() {
            assert_eq!(
                golden.get(&format!("grad/{}", spec.name)).unwrap().shape,
                spec.shape,
                "{}",
                spec.name
            );
        }
        let ids = golden.get("input_ids").unwrap();
        assert_eq!(ids.as_i64().unwrap().len(), ids.shape.iter().product::<usize>());
    }
}

#[test]
fn golden_weights_survive_being_saved() {
    for dir in checkpoints() {
        let specs = ModelConfig::from_dir(&dir).unwrap().parameters();
        let weights = read_checkpoint(&dir, &specs).unwrap();
        let copy = tempdir().unwrap();
        write_tensors(&copy.path().join("model.safetensors"), &weights, Dtype::F32).unwrap();
        assert!(read_checkpoint(copy.path(), &specs).unwrap() == weights, "{}", dir.display());
    }
}

#[test]
fn golden_configs_are_written_back_as_they_were() {
    for dir in checkpoints() {
        let config = ModelConfig::from_dir(&dir).unwrap();
        let copy = tempdir().unwrap();
        config.save(copy.path()).unwrap();
        for name in ["config.json", "generation_config.json"] {
            let value = |dir: &Path| serde_json::from_str::<serde_json::Value>(&text(dir, name)).unwrap();
            if dir.join(name).exists() {
                assert_eq!(value(copy.path()), value(&dir), "{}", dir.join(name).display());
            }
        }
        assert_eq!(ModelConfig::from_dir(copy.path()).unwrap(), config);
    }
}

#[test]
fn golden_chats_are_rendered_to_the_byte() {
    for dir in checkpoints() {
        let messages: Vec<Message> = serde_json::from_str(&text(&dir, "chat.json")).unwrap();
        let template = ChatTemplate::from_dir(&dir).unwrap().expect("a chat template");
        assert_eq!(template.render(&messages, true).unwrap(), text(&dir, "chat.txt"), "{}", dir.display());
    }
}

#[test]
fn golden_tokenizers_give_a_text_back_and_save_every_byte() {
    for dir in checkpoints() {
        let tokenizer = Tokenizer::from_dir(&dir).unwrap();
        let config = ModelConfig::from_dir(&dir).unwrap();
        let chat = text(&dir, "chat.txt");
        let ids = tokenizer.encode(&chat).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), chat);
        assert!(tokenizer.decode(&ids, true).unwrap().len() <= chat.len());
        assert!(tokenizer.vocab_size() <= config.vocab_size);
        assert!(ids.iter().all(|id| (*id as usize) < config.vocab_size));
        if let Some(eos) = tokenizer.eos() {
            assert!(ids.contains(&eos) || !chat.contains(&tokenizer.decode(&[eos], false).unwrap()));
        }
        let copy = tempdir().unwrap();
        tokenizer.save(copy.path()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            assert!(text(copy.path(), name) == text(&dir, name), "{}", dir.join(name).display());
        }
    }
}
