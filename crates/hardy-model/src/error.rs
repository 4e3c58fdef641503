//! What can be wrong with the files of a model, told to the person who named them. Every message is one sentence
//! with the file, the key or tensor, what was found there and what would be right; all of them are input errors.

use std::path::{Path, PathBuf};

/// The result of everything in this crate that reads or writes files.
pub type Result<T> = std::result::Result<T, Error>;

/// A model directory, a file in it or a value in a file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file cannot be written; what was there before is unchanged.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file is not JSON, or its outermost value has the wrong type.
    #[error("{}: is not a JSON {wanted}: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the outermost value should be.
        wanted: &'static str,
        /// What was found, with line and column.
        problem: String,
    },
    /// A key that must be there is not.
    #[error("{}: `{key}` is missing; it should be {wanted}", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key, with the keys around it.
        key: String,
        /// What would be right.
        wanted: String,
    },
    /// A key has a value that cannot be used.
    #[error("{}: `{key}` is {found}; it should be {wanted}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with the keys around it.
        key: String,
        /// The value.
        found: String,
        /// What would be right.
        wanted: String,
    },
    /// Low-rank adapters that do not fit the model, or make no sense.
    #[error("low-rank adapters: {0}")]
    Lora(String),
    /// An adapter that was made for another model.
    #[error(
        "{}: is an adapter for {base} with the fingerprint {wanted}, but the model there now has {found}; give the model that it was trained on", path.display()
    )]
    OtherBase {
        /// The adapter's directory.
        path: PathBuf,
        /// The base that it names.
        base: String,
        /// The fingerprint of the base that it was made for.
        wanted: String,
        /// The fingerprint of the model found.
        found: String,
    },
    /// A decoder this crate does not build.
    #[error("{}: unknown architecture `{found}`; known are {known}", path.display())]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// The architecture asked for.
        found: String,
        /// The architectures that would do.
        known: String,
    },
    /// A directory holds no weights.
    #[error("{}: holds neither model.safetensors nor model.safetensors.index.json", path.display())]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A safetensors file is cut short or its header makes no sense.
    #[error("{}: is not a whole safetensors file: {problem}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that must be in a file is not.
    #[error("{}: tensor `{name}` is missing; {wanted}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Who asks for it, and what the file has instead.
        wanted: String,
    },
    /// A tensor does not have the shape that the configuration gives it.
    #[error("{}: `{name}` is {found:?}, {asker} asks for {wanted:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// Where the right shape comes from.
        asker: &'static str,
        /// The shape that would be right.
        wanted: Vec<usize>,
    },
    /// A tensor's elements have a type that cannot be used here.
    #[error("{}: `{name}` has dtype {found}; it should be {wanted}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// The types that would be right.
        wanted: &'static str,
    },
    /// An index names a file that is not beside it.
    #[error("{}: names the shard `{shard}`, which is not in that directory", path.display())]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The file it names.
        shard: String,
    },
    /// The shards of a checkpoint do not hold what their index says.
    #[error("{}: the shards disagree with it: {problem}", path.display())]
    Shards {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file holds a tensor that the decoder of its configuration does not have.
    #[error("{}: holds `{name}`, which the model of config.json does not have", path.display())]
    UnexpectedTensor {
        /// The file, or the index.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor cannot be written as asked.
    #[error("{}: `{name}` cannot be written: {problem}", path.display())]
    TensorWrite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A tokenizer cannot be loaded, trained or applied.
    #[error("{}: tokenizer: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A chat template is not Jinja, or refuses the messages.
    #[error("{}: chat template: {problem}", path.display())]
    ChatTemplate {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the template's line.
        problem: String,
    },
}

impl Error {
    /// For `map_err` after reading `path`.
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Read { path: path.to_owned(), source }
    }

    /// For `map_err` after writing `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Write { path: path.to_owned(), source }
    }
}
