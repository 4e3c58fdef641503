//! What the machine has, as far as its system tells.

use hardy_model::Decoder;
use hardy_ops::NoisyBackend;

use crate::error::{Error, Result};

const GIB: f64 = (1u64 << 30) as f64;

/// A size of `/proc/meminfo` in bytes; `None` where there is no such file or key.
pub fn memory(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Refuses `what` where its `bytes` exceed the machine's memory and swap; `remedy` says what would be less.
///
/// # Errors
/// They do.
pub fn refuse_beyond_memory(what: &str, bytes: u128, remedy: &str) -> Result<()> {
    let Some(memory) = memory("MemTotal") else { return Ok(()) };
    let memory = memory + self::memory("SwapTotal").unwrap_or_default();
    if bytes <= u128::from(memory) {
        return Ok(());
    }
    Err(Error::config(format!(
        "{what} takes {:.1} GiB, and this machine has {:.1}; {remedy}",
        bytes as f64 / GIB,
        memory as f64 / GIB
    )))
}

/// Refuses a generation whose key-value cache the machine can not hold: so many prompts of up to so many tokens, and so
/// many samples at once with their new ones.
///
/// # Errors
/// It can not.
pub fn refuse_large_cache<B: NoisyBackend>(
    decoder: &Decoder<B>,
    (prompts, longest): (usize, usize),
    (samples, new_tokens): (usize, usize),
) -> Result<()> {
    let values = |count, tokens| decoder.kv_places(count, tokens).elements() as u128;
    let bytes = size_of::<f32>() as u128 * (values(prompts, longest) + values(samples, new_tokens));
    let what = format!("the key-value cache of {samples} sequences of {} tokens", longest + new_tokens);
    refuse_beyond_memory(&what, bytes, "take fewer new tokens, or fewer sequences at once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_holds_is_refused() {
        assert!(refuse_beyond_memory("a byte", 1, "take none").is_ok());
        if memory("MemTotal").is_some() {
            let message = refuse_beyond_memory("a cache", u128::MAX, "take less").unwrap_err().to_string();
            assert!(message.starts_with("a cache takes") && message.ends_with("take less"), "{message}");
        }
    }
}
