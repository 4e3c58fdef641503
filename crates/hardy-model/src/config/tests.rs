use serde_json::{Value, json};

use super::*;

fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 50, "hidden_size": 24,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "rope_theta": 1e6, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5, "eos_token_id": 7,
        "task_specific_params": { "kept": [1, 2.5] },
    })
}

fn with(mut json: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (key, value) in changes {
        json[&key] = value;
    }
    json
}

fn without(mut json: Value, key: &str) -> Value {
    json.as_object_mut().unwrap().remove(key);
    json
}

fn parse(json: Value) -> Result<ModelConfig> {
    let Value::Object(map) = json else { panic!("a config is an object") };
    ModelConfig::from_json(map, Path::new("config.json"))
}

fn refusal(json: Value) -> String {
    parse(json).unwrap_err().to_string()
}

fn names(config: &ModelConfig) -> Vec<String> {
    config.parameters().into_iter().map(|spec| spec.name).collect()
}

#[test]
fn both_dialects_say_the_same() {
    let old = parse(qwen2()).unwrap();
    let new = with(
        without(without(qwen2(), "rope_theta"), "torch_dtype"),
        json!({ "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" }, "dtype": "bfloat16" }),
    );
    let new = parse(new).unwrap();
    assert_eq!((&old.rope, old.dtype), (&new.rope, new.dtype));
    assert_eq!((old.rope.theta, old.dtype, old.eos_token_ids), (1e6, Dtype::Bf16, vec![7]));
    assert_eq!(parse(with(qwen2(), json!({ "rope_scaling": null }))).unwrap().rope, old.rope);
    assert_eq!(parse(without(qwen2(), "rope_theta")).unwrap().rope.theta, 10_000.0);
}

#[test]
fn model_type_or_architectures_is_enough() {
    let expected = Architecture::Qwen2;
    assert_eq!(parse(without(qwen2(), "architectures")).unwrap().architecture, expected);
    assert_eq!(parse(with(qwen2(), json!({ "architectures": [] }))).unwrap().architecture, expected);
    assert_eq!(parse(without(qwen2(), "model_type")).unwrap().architecture, expected);
    assert!(
        refusal(without(without(qwen2(), "model_type"), "architectures"))
            .contains("`architectures` is missing")
    );
    assert!(
        refusal(with(qwen2(), json!({ "model_type": "llama" }))).contains("\"qwen2\" for Qwen2ForCausalLM")
    );
}

#[test]
fn an_unknown_architecture_is_named_beside_the_known_ones() {
    for change in [
        json!({ "architectures": ["MambaForCausalLM"], "model_type": "mamba" }),
        json!({ "architectures": ["MambaForCausalLM"] }),
    ] {
        let message = refusal(with(qwen2(), change));
        assert!(message.starts_with("config.json: unknown architecture `MambaForCausalLM`"), "{message}");
        assert!(message.contains("Qwen2ForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM"), "{message}");
    }
    assert!(
        refusal(with(qwen2(), json!({ "architectures": ["Qwen2ForSequenceClassification"] })))
            .contains("Sequence")
    );
}

#[test]
fn qwen2_has_query_key_value_biases_and_no_others() {
    let config = parse(qwen2()).unwrap();
    let layer: Vec<_> = names(&config).into_iter().filter(|name| name.contains("layers.1.")).collect();
    let short: Vec<_> = layer.iter().map(|name| name.strip_prefix("model.layers.1.").unwrap()).collect();
    let expected = [
        "self_attn.q_proj.weight",
        "self_attn.q_proj.bias",
        "self_attn.k_proj.weight",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.weight",
        "self_attn.v_proj.bias",
        "self_attn.o_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    ];
    assert_eq!(short, expected);
    let shape =
        |name: &str| config.parameters().into_iter().find(|spec| spec.name.ends_with(name)).unwrap().shape;
    assert_eq!((shape("q_proj.weight"), shape("k_proj.bias")), (vec![24, 24], vec![8]));
    assert_eq!((shape("down_proj.weight"), shape("lm_head.weight")), (vec![24, 32], vec![50, 24]));
}

#[test]
fn llama_biases_follow_the_file() {
    let llama = |more: Value| {
        let base = json!({ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": true });
        names(&parse(with(with(qwen2(), base), more)).unwrap())
    };
    assert!(llama(json!({})).iter().all(|name| !name.ends_with("bias") && name != "lm_head.weight"));
    let all = llama(json!({ "attention_bias": true, "mlp_bias": true }));
    for projection in ["q", "k", "v", "o", "gate", "up", "down"] {
        assert!(all.iter().any(|name| name.ends_with(&format!(".{projection}_proj.bias"))), "{projection}");
    }
}

#[test]
fn qwen3_has_head_norms_and_its_own_head_width() {
    let base = json!({ "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16 });
    let config = parse(with(qwen2(), base.clone())).unwrap();
    let shape =
        |name: &str| config.parameters().into_iter().find(|spec| spec.name.ends_with(name)).unwrap().shape;
    assert_eq!((shape("q_norm.weight"), shape("o_proj.weight")), (vec![16], vec![24, 96]));
    assert!(!config.qkv_bias && !config.o_bias && config.qk_norm);
    assert_eq!(parse(without(with(qwen2(), base), "head_dim")).unwrap().head_dim, 128);
}

#[test]
fn generation_config_decides_what_ends_a_text() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, json: Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
    write("config.json", qwen2());
    assert_eq!(ModelConfig::from_dir(dir.path()).unwrap().eos_token_ids, [7]);
    write("generation_config.json", json!({ "eos_token_id": null }));
    assert_eq!(ModelConfig::from_dir(dir.path()).unwrap().eos_token_ids, [7]);
    write("generation_config.json", json!({ "eos_token_id": [9, 3], "top_k": 20 }));
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    assert_eq!(config.eos_token_ids, [9, 3]);
    let copy = tempfile::tempdir().unwrap();
    config.save(copy.path()).unwrap();
    let copied = |name: &str| read_json(&copy.path().join(name)).unwrap();
    assert_eq!(
        (&copied("config.json")["eos_token_id"], &copied("generation_config.json")["top_k"]),
        (&json!(7), &json!(20))
    );
    let changed = ModelConfig { eos_token_ids: vec![4], ..config };
    changed.save(copy.path()).unwrap();
    assert_eq!(ModelConfig::from_dir(copy.path()).unwrap().eos_token_ids, [4]);
    assert_eq!(copied("config.json")["eos_token_id"], 4);
    write("generation_config.json", json!({ "eos_token_id": "end" }));
    let message = ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("generation_config.json: `eos_token_id` is \"end\"; it should be a token id"),
        "{message}"
    );
}

#[test]
fn token_ids_may_be_absent_null_or_minus_one() {
    let config =
        parse(with(qwen2(), json!({ "eos_token_id": null, "pad_token_id": -1, "bos_token_id": 3 }))).unwrap();
    assert_eq!((config.eos_token_ids, config.pad_token_id, config.bos_token_id), (vec![], None, Some(3)));
}

#[test]
fn writing_back_keeps_every_key_and_changes_what_changed() {
    let mut config = parse(qwen2()).unwrap();
    assert_eq!(config.to_json(), qwen2());
    config.dtype = Dtype::F32;
    config.eos_token_ids = vec![1, 2];
    config.pad_token_id = Some(0);
    let expected =
        with(qwen2(), json!({ "torch_dtype": "float32", "eos_token_id": [1, 2], "pad_token_id": 0 }));
    assert_eq!(config.to_json(), expected);
}

#[test]
fn a_fresh_qwen2_is_read_back_as_it_was_made() {
    let sizes = Qwen2Sizes {
        vocab_size: 64,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 40,
        heads: 4,
        kv_heads: 2,
        max_positions: 256,
        rope_theta: 1e4,
        tied_embeddings: true,
        initializer_range: 0.02,
    };
    let config = ModelConfig::qwen2(&sizes).unwrap();
    assert_eq!(parse(config.to_json()).unwrap(), config);
    let count: usize =
        64 * 32 + 32 + 40 * (32 * 32 + 32 + 2 * (16 * 32 + 16) + 32 * 32 + 3 * 48 * 32 + 2 * 32);
    assert_eq!(config.parameter_count(), count);
    let message = ModelConfig::qwen2(&Qwen2Sizes { kv_heads: 3, ..sizes }).unwrap_err().to_string();
    assert!(
        message.contains("`num_key_value_heads` is 3; it should be a divisor of `num_attention_heads`"),
        "{message}"
    );
}

#[test]
fn sizes_that_cannot_be_are_refused_by_key() {
    for (change, key) in [
        (json!({ "hidden_size": 0 }), "hidden_size"),
        (json!({ "hidden_size": -8 }), "hidden_size"),
        (json!({ "hidden_size": 25 }), "hidden_size"),
        (json!({ "hidden_size": 18 }), "hidden_size"),
        (json!({ "vocab_size": 1.5 }), "vocab_size"),
        (json!({ "vocab_size": 1_u64 << 40 }), "vocab_size"),
        (json!({ "num_hidden_layers": 1_000_000 }), "num_hidden_layers"),
        (json!({ "num_key_value_heads": 4 }), "num_key_value_heads"),
        (json!({ "head_dim": 3 }), "head_dim"),
        (json!({ "rms_norm_eps": 0.0 }), "rms_norm_eps"),
        (json!({ "rope_theta": "1e6" }), "rope_theta"),
        (json!({ "rope_parameters": { "rope_theta": -1.0 } }), "rope_parameters.rope_theta"),
        (
            json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
            "rope_parameters.partial_rotary_factor",
        ),
        (json!({ "tie_word_embeddings": "yes" }), "tie_word_embeddings"),
        (json!({ "hidden_act": "relu" }), "hidden_act"),
        (json!({ "torch_dtype": "int8" }), "torch_dtype"),
        (json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
        (json!({ "layer_types": ["full_attention", "sliding_attention"] }), "layer_types"),
        (json!({ "layer_types": ["full_attention"] }), "layer_types"),
        (json!({ "layer_types": ["full_attention", "linear_attention"] }), "layer_types"),
        (json!({ "use_sliding_window": true, "sliding_window": 0 }), "sliding_window"),
        (json!({ "architectures": "Qwen2ForCausalLM" }), "architectures"),
    ] {
        let message = refusal(with(qwen2(), change.clone()));
        assert!(message.starts_with(&format!("config.json: `{key}` is ")), "{change}: {message}");
        assert!(message.contains("it should be "), "{message}");
    }
    for key in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    {
        assert_eq!(
            refusal(without(qwen2(), key)),
            format!("config.json: `{key}` is missing; it should be a positive integer")
        );
    }
}

#[test]
fn nobody_is_given_more_positions_than_attention_tells_apart() {
    let long = parse(with(qwen2(), json!({ "max_position_embeddings": 10_485_760 }))).unwrap();
    assert_eq!(long.max_positions, MOST_KEYS);
    assert_eq!(long.to_json()["max_position_embeddings"], 10_485_760);
}

#[test]
fn a_sliding_window_that_no_layer_uses_is_no_matter() {
    for change in [
        json!({ "use_sliding_window": false, "sliding_window": 64, "max_window_layers": 0 }),
        json!({ "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2 }),
        json!({ "use_sliding_window": true, "sliding_window": null, "max_window_layers": 0 }),
    ] {
        parse(with(qwen2(), change)).unwrap();
    }
}

#[test]
fn kv_heads_default_to_heads_and_activations_have_aliases() {
    let config =
        parse(with(qwen2(), json!({ "num_key_value_heads": null, "hidden_act": "gelu_new" }))).unwrap();
    assert_eq!((config.kv_heads, config.activation), (6, Activation::GeluTanh));
    assert_eq!(parse(with(qwen2(), json!({ "hidden_act": "gelu" }))).unwrap().activation, Activation::Gelu);
}

#[test]
fn frequencies_are_powers_of_the_base() {
    let config = parse(with(qwen2(), json!({ "head_dim": 8, "rope_theta": 10_000.0 }))).unwrap();
    assert_eq!(config.inverse_frequencies(), [1.0, 0.1, 0.01, 0.001]);
    let linear =
        json!({ "head_dim": 8, "rope_theta": 10_000.0, "rope_scaling": { "type": "linear", "factor": 4.0 } });
    assert_eq!(parse(with(qwen2(), linear)).unwrap().inverse_frequencies(), [0.25, 0.025, 0.0025, 0.00025]);
}

#[test]
fn llama3_scaling_keeps_short_waves_and_divides_long_ones() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500_000.0,
    });
    let scaled = parse(with(qwen2(), json!({ "head_dim": 64, "rope_parameters": scaling }))).unwrap();
    let plain = parse(with(qwen2(), json!({ "head_dim": 64, "rope_theta": 500_000.0 }))).unwrap();
    let (scaled_values, plain_values) = (scaled.inverse_frequencies(), plain.inverse_frequencies());
    for (scaled, plain) in scaled_values.iter().zip(plain_values) {
        let wavelength = std::f32::consts::TAU / plain;
        match wavelength {
            short if short < 2048.0 => assert_eq!(*scaled, plain),
            long if long > 8192.0 => assert_eq!(*scaled, plain / 8.0),
            _ => assert!((plain / 8.0..=plain).contains(scaled), "{scaled} {plain}"),
        }
    }
    let bad = with(scaling_of(&scaled), json!({ "high_freq_factor": 1.0 }));
    assert!(refusal(with(qwen2(), json!({ "rope_scaling": bad }))).contains("rope_scaling.high_freq_factor"));
    let more = with(scaling_of(&scaled), json!({ "short_factor": [1.0] }));
    assert!(refusal(with(qwen2(), json!({ "rope_scaling": more }))).contains("rope_scaling.short_factor"));
}

fn scaling_of(config: &ModelConfig) -> Value {
    config.to_json()["rope_parameters"].clone()
}

#[test]
fn other_rope_types_are_named() {
    for kind in ["dynamic", "longrope"] {
        let message = refusal(with(qwen2(), json!({ "rope_scaling": { "rope_type": kind, "factor": 2.0 } })));
        assert!(
            message.contains(&format!("`rope_scaling.rope_type` is \"{kind}\"; it should be default")),
            "{message}"
        );
    }
    let message = refusal(with(qwen2(), json!({ "rope_scaling": { "type": "linear" } })));
    assert!(message.contains("`rope_scaling.factor` is missing"), "{message}");
}

#[test]
fn what_nobody_reads_is_refused_unless_it_can_change_nothing() {
    for (change, key) in [
        (json!({ "something_new": 2 }), "something_new"),
        (json!({ "dual_chunk_attention_config": { "chunk_size": 262_144 } }), "dual_chunk_attention_config"),
        (json!({ "attention_bias": true }), "attention_bias"),
        (json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping"),
        (json!({ "final_logit_softcapping": 30.0 }), "final_logit_softcapping"),
        (json!({ "logits_scaling": 8.0 }), "logits_scaling"),
        (json!({ "residual_multiplier": 0.22 }), "residual_multiplier"),
        (json!({ "attention_dropout": 0.1 }), "attention_dropout"),
        (json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        (json!({ "num_experts": 8 }), "num_experts"),
        (json!({ "position_embedding_type": "alibi" }), "position_embedding_type"),
    ] {
        let message = refusal(with(qwen2(), change));
        assert!(message.starts_with(&format!("config.json: `{key}` is ")), "{message}");
    }
    for change in [
        json!({ "_name_or_path": "somewhere", "transformers_version": "4.40.1", "use_cache": true }),
        json!({ "attention_bias": false, "attn_logit_softcapping": null, "pruned_heads": {} }),
        json!({ "logits_scaling": 1.0, "attention_dropout": 0, "partial_rotary_factor": 1.0 }),
        json!({ "use_sliding_window": false, "sliding_window": 131_072, "max_window_layers": 28 }),
    ] {
        parse(with(qwen2(), change)).unwrap();
    }
}

/// The same sizes under another family.
fn family(architecture: Architecture, more: Value) -> Value {
    let named =
        json!({ "architectures": [architecture.class_name()], "model_type": architecture.model_type() });
    with(with(qwen2(), named), more)
}

fn windows(json: Value) -> Vec<Option<usize>> {
    parse(json).unwrap().per_layer.iter().map(|layer| layer.window).collect()
}

#[test]
fn windows_are_those_of_the_family() {
    let sliding = json!({ "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 1 });
    assert_eq!(windows(with(qwen2(), sliding.clone())), [None, Some(64)]);
    assert_eq!(windows(family(Architecture::Qwen3, sliding.clone())), [None, Some(64)]);
    assert_eq!(windows(family(Architecture::Mistral, json!({ "sliding_window": 9 }))), [Some(9); 2]);
    assert_eq!(windows(family(Architecture::Mistral, json!({ "sliding_window": null }))), [None; 2]);
    assert_eq!(windows(family(Architecture::Mistral, json!({}))), [Some(4096); 2]);
    let types = json!({ "layer_types": ["sliding_attention", "full_attention"] });
    assert_eq!(windows(with(with(qwen2(), sliding), types.clone())), [Some(64), None]);
    assert!(refusal(family(Architecture::Mistral, types)).contains("the same for all layers"));
    let message = refusal(family(Architecture::Llama, json!({ "sliding_window": 64 })));
    assert!(message.contains("`sliding_window` is 64; it should be absent"), "{message}");
}

#[test]
fn every_nth_layer_of_smollm3_is_still() {
    let still = |more: Value| {
        let config = parse(family(Architecture::SmolLm3, more)).unwrap();
        config.per_layer.iter().map(|layer| !layer.rotary).collect::<Vec<bool>>()
    };
    assert_eq!(still(json!({ "num_hidden_layers": 5 })), [false, false, false, true, false]);
    assert_eq!(still(json!({ "no_rope_layer_interval": 2 })), [false, true]);
    assert_eq!(still(json!({ "no_rope_layers": [0, 1, 1] })), [true, false]);
    assert!(
        refusal(family(Architecture::SmolLm3, json!({ "no_rope_layers": [1] }))).contains("no_rope_layers")
    );
    assert!(parse(family(Architecture::SmolLm3, json!({}))).unwrap().tied_embeddings);
}

#[test]
fn gemma_says_gelu_and_means_its_approximation() {
    for more in
        [json!({ "hidden_act": "gelu" }), json!({ "hidden_activation": "gelu_pytorch_tanh" }), json!({})]
    {
        let config = parse(family(Architecture::Gemma, more)).unwrap();
        assert_eq!(config.activation, Activation::GeluTanh);
        assert!(config.tied_embeddings && config.unit_offset_norms);
        assert_eq!((config.head_dim, config.embedding_scale), (256, Some(24.0_f32.sqrt())));
    }
    assert!(
        refusal(family(Architecture::Gemma, json!({ "hidden_act": "silu" }))).contains("gelu_pytorch_tanh")
    );
    let both_ways = json!({ "use_bidirectional_attention": true });
    assert!(refusal(family(Architecture::Gemma, both_ways)).contains("use_bidirectional_attention"));
}

#[test]
fn a_mixture_has_a_router_its_experts_and_one_that_all_share() {
    let sizes = json!({
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6,
        "shared_expert_intermediate_size": 10, "mlp_only_layers": [0],
    });
    let config = parse(family(Architecture::Qwen2Moe, sizes.clone())).unwrap();
    let names = names(&config);
    assert!(names.contains(&"model.layers.0.mlp.up_proj.weight".to_owned()));
    for name in ["gate", "experts.3.down_proj", "shared_expert.up_proj", "shared_expert_gate"] {
        assert!(names.contains(&format!("model.layers.1.mlp.{name}.weight")), "{name}");
    }
    assert!(!config.experts.unwrap().normalised);
    let qwen3 = without(sizes, "shared_expert_intermediate_size");
    let renamed = with(without(qwen3.clone(), "num_experts"), json!({ "num_local_experts": 4 }));
    for sizes in [with(qwen3, json!({ "max_window_layers": 2 })), renamed] {
        let config = parse(family(Architecture::Qwen3Moe, sizes)).unwrap();
        assert_eq!(config.experts.map(|experts| (experts.count, experts.shared_width)), Some((4, None)));
        assert_eq!(config.per_layer.iter().map(|layer| layer.sparse).collect::<Vec<_>>(), [false, true]);
    }
}

#[test]
fn yarn_keeps_short_waves_divides_long_ones_and_lengthens_queries() {
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768 });
    let with_yarn = json!({ "head_dim": 128, "rope_theta": 1e6, "rope_scaling": yarn });
    let scaled = parse(with(qwen2(), with_yarn)).unwrap();
    let plain = parse(with(qwen2(), json!({ "head_dim": 128, "rope_theta": 1e6 }))).unwrap();
    let (ours, plain) = (scaled.inverse_frequencies(), plain.inverse_frequencies());
    // 32 turns over 32,768 tokens: pair 23; one turn: pair 40 (arXiv:2309.00071, eq. 17 and 23).
    assert_eq!(ours[..24], plain[..24]);
    assert!(ours[40..].iter().zip(&plain[40..]).all(|(ours, plain)| (ours * 4.0 / plain - 1.0).abs() < 1e-6));
    assert_eq!(scaled.rotary_scale(), (0.1 * 4.0_f64.ln() + 1.0) as f32);
}
