//! Globs on module paths: `*` stands for any run of characters, dots included, and `?` for one.

/// Whether `pattern` matches the whole of `text`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    p = after_star;
                    t = from + 1;
                    retry = Some((after_star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        assert!(matches("*", ""));
        assert!(matches("*.mlp.*", "model.layers.3.mlp.down_proj"));
        assert!(matches("model.layers.?.mlp*", "model.layers.3.mlp.down_proj"));
        assert!(matches("lm_head", "lm_head"));
        assert!(matches("*_proj", "a.q_proj.b_proj"));
        assert!(!matches("*.mlp", "model.layers.3.mlp.down_proj"));
        assert!(!matches("lm_head", "model.lm_head"));
        assert!(!matches("?", ""));
    }
}
