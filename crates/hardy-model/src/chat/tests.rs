use super::*;

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

fn render(source: &str, messages: &[Message]) -> String {
    ChatTemplate::new(source).unwrap().render(messages, true).unwrap()
}

#[test]
fn chatml_is_what_it_is() {
    let text = render(CHATML, &[message("system", "Be <brief> & kind."), Message::user("Hi")]);
    let expected = "<|im_start|>system\nBe <brief> & kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text, expected);
    let closed = ChatTemplate::new(CHATML).unwrap().render(&[Message::user("Hi")], false).unwrap();
    assert_eq!(closed, "<|im_start|>user\nHi<|im_end|>\n");
}

#[test]
fn block_lines_vanish_as_in_transformers() {
    let source = "{% for m in messages %}\n    {% if m.role == 'user' %}\n[{{ m.content }}]\n    {% endif %}\n{% endfor %}\n";
    assert_eq!(
        render(source, &[Message::user("a"), message("system", "b"), Message::user("c")]),
        "[a]\n[c]\n"
    );
}

/// The Python that the templates of Qwen and Llama are written in.
#[test]
fn python_methods_slices_and_namespaces_work() {
    let source = r"
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == 'user' and message.content is string and not message.content.startswith('<tool') %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{- raise_exception('no tools here') }}{%- endif %}
{%- if tools is not none %}{{- 'never' }}{%- endif %}
{%- for message in messages %}
    {%- if '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
    {%- else %}
        {%- set content = message['content'].strip() %}
    {%- endif %}
    {{- message.role.upper() + ': ' + content + '\n' }}
{%- endfor %}
{{- ns.last }}{% if enable_thinking is defined and enable_thinking is false %}off{% endif %}";
    let messages =
        [Message::user("  x "), message("assistant", "<think>no</think>\n\nyes"), Message::user("<tool>")];
    assert_eq!(render(source, &messages), "USER: x\nASSISTANT: yes\nUSER: <tool>\n0");
}

#[test]
fn generation_marks_print_nothing() {
    let source =
        "{%- for m in messages -%}{%- generation -%} {{ m.content }} {%- endgeneration -%}{%- endfor -%}";
    assert_eq!(render(source, &[Message::user("a"), Message::user("b")]), "ab");
    let source =
        "{% for m in messages %}\n{% generation %}\n {{ m.content }}\n  {% endgeneration %}\n{% endfor %}x\n";
    assert_eq!(render(source, &[Message::user("a"), Message::user("b")]), " a\n b\nx");
    assert_eq!(without_generation_marks("a {% open"), "a {% open");
}

#[test]
fn an_exception_carries_the_words_of_the_template() {
    let template = ChatTemplate::new("{{ raise_exception('System role not supported') }}").unwrap();
    let message = template.render(&[], true).unwrap_err().to_string();
    assert_eq!(message, "chat_template.jinja: chat template: System role not supported (line 1)");
}

#[test]
fn what_is_not_jinja_is_refused_when_it_is_loaded() {
    let message = ChatTemplate::new("line\n{% for %}").unwrap_err().to_string();
    assert!(message.contains("chat template: ") && message.ends_with("(line 2)"), "{message}");
}

#[test]
fn the_clock_can_be_set() {
    let template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}").unwrap().at(951_782_400);
    assert_eq!(template.render(&[], false).unwrap(), "29 Feb 2000");
}

#[test]
fn the_file_goes_before_the_configuration_and_neither_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let read = || ChatTemplate::from_dir(dir.path()).unwrap().map(|t| t.render(&[], true).unwrap());
    assert_eq!(read(), None);
    let config = |text: &str| std::fs::write(dir.path().join(CONFIG), text).unwrap();
    config(r#"{"eos_token": "E"}"#);
    assert_eq!(read(), None);
    config(
        r#"{"eos_token": "E", "bos_token": {"content": "B"}, "chat_template": "{{ bos_token }}one{{ eos_token }}"}"#,
    );
    assert_eq!(read().unwrap(), "BoneE");
    config(
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    assert_eq!(read().unwrap(), "d");
    std::fs::write(dir.path().join(FILE), "file").unwrap();
    assert_eq!(read().unwrap(), "file");
}

#[test]
fn a_configuration_without_a_default_template_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(CONFIG), r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#)
        .unwrap();
    let message = ChatTemplate::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("`chat_template` is [") && message.contains("named default"), "{message}");
}

#[test]
fn saving_keeps_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    ChatTemplate::new("a{% generation %}b{% endgeneration %}\n").unwrap().save(dir.path()).unwrap();
    let saved = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
    assert_eq!(saved, "a{% generation %}b{% endgeneration %}\n");
}
