//! Reading and writing the files of a model directory. Whatever is written appears whole or not at all, and whatever
//! is read is checked before it is believed.

mod adapter;
mod atomic;
mod checkpoint;
mod described;
mod experts;
mod json;
mod named;
mod parameters;
mod save;
mod stored;

pub use adapter::{fingerprint, is_adapter, read_adapter_config};
pub use atomic::{flush_directory, remove_abandoned, write_atomically};
pub use checkpoint::{Elements, HostTensor, read_as_stored, read_checkpoint, read_each};
pub use described::{IntegerTensor, write_described};
pub(crate) use json::excerpt;
pub use json::{read_json, read_json_if_present, write_json};
pub use named::{NamedTensor, TensorData, TensorFile, read_tensors};
pub use save::{Dtype, write_each, write_tensors};
