//! The settings of `hardy sft`.

use super::{LARGE, PASS, POSITIONS, PROBLEMS, STEPS, Setting, above, below, number, text, whole, words};

#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    text("name", "text", "Names the run and its directory, runs/NAME"),
    whole("seed", 0, i64::MAX as u64, "The seed of everything that is drawn"),
    number("rewarded_share", 0.0, 1.0, "The share of answers that end in the rewarded form, the rest in others; answers stay as they are where left out"),
    whole("eval_problems", 0, PROBLEMS, "Greedy evaluation at the end, on this many problems"),
    words("dtype", &["float32", "bfloat16", "float16"], "The type in which weights are saved"),
    text("model.path", "builtin:tiny or a Hugging Face directory", "The model to start from"),
    whole("model.max_positions", 1, POSITIONS, "The longest sequence, in tokens; the model's max_position_embeddings where left out"),
    whole("model.new.vocab_size", 257, 1_000_000, "Tokens that the tokenizer of a model from nothing may have"),
    whole("model.new.hidden_size", 1, 65_536, "Width of its residual stream"),
    whole("model.new.intermediate_size", 1, 262_144, "Width of its MLP"),
    whole("model.new.layers", 1, 1000, "Its layers"),
    whole("model.new.heads", 1, 1024, "Its query heads"),
    whole("model.new.kv_heads", 1, 1024, "Its key-value heads"),
    whole("model.new.max_positions", 1, POSITIONS, "Its longest sequence, in tokens"),
    text("model.new.chat_template", "Jinja", "How a question becomes its prompt"),
    text("data.train", "builtin:arith or a file", "The problems whose answers are learned"),
    text("data.eval", "builtin:arith or a file", "The problems of the evaluation; given where data.train is"),
    whole("data.train_problems", 1, PROBLEMS, "Problems of an epoch: the first of a file; all where left out"),
    text("data.prompt", "text with {question}", "What is asked"),
    whole("data.max_prompt_tokens", 1, POSITIONS, "The longest prompt, in tokens; where left out, what the model leaves beside the answer"),
    words("data.overlong_prompts", &["refuse", "drop"], "What becomes of problems with longer prompts"),
    whole("train.steps", 1, STEPS, "Steps"),
    whole("train.batch", 1, 1_000_000, "Problems of a step"),
    above("train.learning_rate", 0.0, 100.0, "The highest learning rate"),
    whole("train.warmup_steps", 0, STEPS, "Steps until it is reached"),
    words("train.decay", &["constant", "linear", "cosine"], "How it falls afterwards"),
    number("train.floor_ratio", 0.0, 1.0, "What it falls to, as a share of the highest"),
    number("train.weight_decay", 0.0, 100.0, "AdamW's decoupled weight decay"),
    below("train.betas", 0.0, 1.0, "AdamW's β₁ and β₂"),
    number("train.max_grad_norm", 0.0, LARGE, "Gradients are scaled down to this norm; 0 never"),
    whole("train.micro_batch_tokens", 1, PASS, "Tokens of a forward and backward pass"),
];
