//! `hardy config`: every key of a configuration, with its default, what is admissible, and what it means.

use clap::{Args, ValueEnum};
use hardy_lab::text_table::wrap;
use hardy_train::config::settings::{Kind, Setting};
use serde::Serialize;

use crate::{failure::Failure, output::Output};

const EXAMPLE: &str = "\
KEY is a key or a section. What is refused as out of range is refused by this table.

Examples:
  hardy config train
  hardy config aqn.sigma_start
  hardy config --of sft --json";

/// Which configuration.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// That of `hardy run`
    Run,
    /// That of `hardy sft`
    Sft,
}

/// Arguments of `hardy config`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Only this key or section
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// Which configuration
    #[arg(long, value_enum, default_value = "run")]
    of: Of,
    /// Print a Markdown table
    #[arg(long)]
    markdown: bool,
}

/// A key as it is listed.
#[derive(Serialize)]
struct Listed {
    key: &'static str,
    /// As TOML writes it; `null` where the key may be left out or must be given.
    default: Option<String>,
    admissible: String,
    meaning: &'static str,
}

/// Lists the keys.
///
/// # Errors
/// A key that does not exist.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let kind = match args.of {
        Of::Run => Kind::Run,
        Of::Sft => Kind::Sft,
    };
    let chosen = |setting: &&Setting| args.key.as_deref().is_none_or(|key| setting.is_in(key));
    let list = |setting: &Setting| Listed {
        key: setting.key,
        default: kind.default(setting.key),
        admissible: setting.range.to_string(),
        meaning: setting.meaning,
    };
    let listed: Vec<Listed> = kind.settings().filter(chosen).map(list).collect();
    if let (Some(key), true) = (&args.key, listed.is_empty()) {
        return Err(Failure::input(format!("{key}: no such key or section; {}", kind.suggestion(key))));
    }
    output.show(&listed, |width| if args.markdown { markdown(&listed) } else { text(&listed, width) })
}

fn text(listed: &[Listed], width: usize) -> String {
    let entry = |Listed { key, default, admissible, meaning }: &Listed| {
        let default = default.as_ref().map(|default| format!(" = {default}")).unwrap_or_default();
        let what = wrap(&format!("    {meaning}"), width, 4);
        format!("{key}{default}\n{what}{}", wrap(&format!("    admissible: {admissible}"), width, 4))
    };
    listed.iter().map(entry).collect()
}

fn markdown(listed: &[Listed]) -> String {
    let row = |Listed { key, default, admissible, meaning }: &Listed| {
        let default = default.as_ref().map(|default| format!("`{default}`")).unwrap_or_default();
        format!(
            "| `{key}` | {default} | {} | {} |\n",
            admissible.replace('|', "\\|"),
            meaning.replace('|', "\\|")
        )
    };
    let rows: String = listed.iter().map(row).collect();
    format!("| key | default | admissible | meaning |\n|---|---|---|---|\n{rows}")
}
