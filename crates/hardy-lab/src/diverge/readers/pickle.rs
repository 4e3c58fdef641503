//! A reader of pickles (PEP 307, PEP 3154) that holds tensors and nothing else: it knows the opcodes of data, and a handful
//! of names of PyTorch's that stand for tensors. It calls nothing and imports nothing; whatever else a pickle asks for is
//! refused and named.

use std::collections::HashMap;

/// A value, by its number in the arena of [`Unpickled`].
pub type Id = usize;

/// What a pickle is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Pickled {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number; one beyond 64 bits is its bytes.
    Int(i64),
    /// A whole number of more than 64 bits.
    Long(Vec<u8>),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list or a set.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary, in its order.
    Dict(Vec<(Id, Id)>),
    /// A name that is known.
    Known(Known),
    /// A persistent id: PyTorch's storages.
    Storage(Id),
    /// The arguments of a tensor.
    Tensor(Vec<Id>),
}

/// The names that a pickle may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    Tensor,
    /// `torch._utils._rebuild_parameter`.
    Parameter,
    /// `torch.Size`.
    Size,
    /// A type of storage, `torch.FloatStorage` and the like, by its name.
    StorageType(String),
}

/// A pickle that was read: all its values, and which is the outermost.
#[derive(Clone, Debug)]
pub struct Unpickled {
    /// All values.
    pub values: Vec<Pickled>,
    /// The outermost.
    pub root: Id,
    /// Bytes read.
    pub length: usize,
}

/// Reads the pickle at the beginning of `bytes`.
///
/// # Errors
/// What is cut off, or asks for more than data: one sentence that names it.
pub fn unpickle(bytes: &[u8]) -> Result<Unpickled, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        if let Some(root) = machine.step()? {
            return Ok(Unpickled { values: machine.values, root, length: machine.at });
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Pickled>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    /// One opcode; gives the outermost value at the last.
    fn step(&mut self) -> Step<Option<Id>> {
        let at = self.at;
        let [opcode] = self.take::<1>()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => drop(self.take::<1>()?),
            0x95 => drop(self.take::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'N' => self.push(Pickled::None),
            0x88 => self.push(Pickled::Bool(true)),
            0x89 => self.push(Pickled::Bool(false)),
            b'J' => self.int::<4>(|x| i32::from_le_bytes(x).into())?,
            b'K' => self.int::<1>(|[x]| x.into())?,
            b'M' => self.int::<2>(|x| u16::from_le_bytes(x).into())?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Pickled::Float(value));
            }
            b'X' | b'T' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            b'B' => self.binary(4)?,
            b'C' => self.binary(1)?,
            0x8e => self.binary(8)?,
            b']' | 0x8f => self.push(Pickled::List(Vec::new())),
            b'}' => self.push(Pickled::Dict(Vec::new())),
            b')' => self.push(Pickled::Tuple(Vec::new())),
            b't' => {
                let items = self.marked()?;
                self.push(Pickled::Tuple(items));
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Pickled::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(items)?;
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            b'q' => {
                let [key] = self.take::<1>()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.take()?);
                self.remember(key as usize)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'h' => {
                let [key] = self.take::<1>()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.take()?);
                self.recall(key as usize)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let text = |id: Id| match &self.values[id] {
                    Pickled::Text(text) => Ok(text.clone()),
                    _ => Err("names something that is no text".to_owned()),
                };
                let (module, name) = (text(names[0])?, text(names[1])?);
                self.global(&module, &name)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Pickled::Storage(id));
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            other => return Err(refused(other, at)),
        }
        Ok(None)
    }

    fn take<const N: usize>(&mut self) -> Step<[u8; N]> {
        let bytes = self.slice(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn slice(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("is cut short: its pickle ends at byte {}", self.bytes.len()))?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// As many bytes as the next `width` bytes say.
    fn counted(&mut self, width: usize) -> Step<&'a [u8]> {
        let mut count = [0; 8];
        count[..width].copy_from_slice(self.slice(width)?);
        self.slice(usize::try_from(u64::from_le_bytes(count)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        let line = String::from_utf8_lossy(self.slice(length)?).into_owned();
        self.take::<1>()?;
        Ok(line)
    }

    fn push(&mut self, value: Pickled) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let empty = || "is damaged: its pickle takes a value that is not there".to_owned();
        if self.stack.len() <= floor {
            return Err(empty());
        }
        self.stack.pop().ok_or_else(empty)
    }

    fn pop_many(&mut self, count: usize) -> Step<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
        items.reverse();
        Ok(items)
    }

    fn marked(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("is damaged: its pickle ends a list that it did not begin")?;
        Ok(self.stack.split_off(mark))
    }

    fn int<const N: usize>(&mut self, value: fn([u8; N]) -> i64) -> Step<()> {
        let value = value(self.take()?);
        self.push(Pickled::Int(value));
        Ok(())
    }

    fn long(&mut self, width: usize) -> Step<()> {
        let bytes = self.counted(width)?;
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let value = |i: usize| bytes.get(i).copied().unwrap_or(fill);
        self.push(match bytes.len() {
            0..=8 => Pickled::Int(i64::from_le_bytes(std::array::from_fn(value))),
            _ => Pickled::Long(bytes.to_vec()),
        });
        Ok(())
    }

    fn text(&mut self, width: usize) -> Step<()> {
        let text = String::from_utf8_lossy(self.counted(width)?).into_owned();
        self.push(Pickled::Text(text));
        Ok(())
    }

    fn binary(&mut self, width: usize) -> Step<()> {
        let bytes = self.counted(width)?.to_vec();
        self.push(Pickled::Bytes(bytes));
        Ok(())
    }

    fn top(&mut self) -> Step<&mut Pickled> {
        let id =
            self.stack.last().copied().ok_or("is damaged: its pickle fills a value that is not there")?;
        Ok(&mut self.values[id])
    }

    fn extend(&mut self, items: Vec<Id>) -> Step<()> {
        match self.top()? {
            Pickled::List(list) => list.extend(items),
            _ => return Err("is damaged: its pickle appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Step<()> {
        let Pickled::Dict(dict) = self.top()? else {
            return Err("is damaged: its pickle sets a key of what is no dictionary".to_owned());
        };
        if !items.len().is_multiple_of(2) {
            return Err("is damaged: its pickle has a key without a value".to_owned());
        }
        dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn remember(&mut self, key: usize) -> Step<()> {
        let id =
            self.stack.last().copied().ok_or("is damaged: its pickle keeps a value that is not there")?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Step<()> {
        let id = self.memo.get(&key).copied().ok_or("is damaged: its pickle recalls what it did not keep")?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Known::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Known::Tensor,
            ("torch._utils", "_rebuild_parameter") => Known::Parameter,
            ("torch", "Size") => Known::Size,
            ("torch", storage) if storage.ends_with("Storage") => Known::StorageType(storage.to_owned()),
            _ => {
                return Err(format!(
                    "asks for `{module}.{name}`, which is not read: only tensors and dictionaries, lists and tuples of \
                     them are, and nothing is run"
                ));
            }
        };
        self.push(Pickled::Known(known));
        Ok(())
    }

    /// What stands for a call: only names that are known may be called, and none is.
    fn reduce(&mut self) -> Step<()> {
        let call = self.pop_many(2)?;
        let Pickled::Tuple(arguments) = self.values[call[1]].clone() else {
            return Err("is damaged: its pickle has arguments that are no tuple".to_owned());
        };
        let Pickled::Known(known) = &self.values[call[0]] else {
            return Err("calls what is no known name; nothing is run".to_owned());
        };
        match (known, &arguments[..]) {
            (Known::OrderedDict, []) => self.push(Pickled::Dict(Vec::new())),
            (Known::Tensor, [_, _, _, _, ..]) => self.push(Pickled::Tensor(arguments)),
            (Known::Parameter, [tensor, ..]) => self.stack.push(*tensor),
            (Known::Size, [items]) => self.stack.push(*items),
            (known, _) => return Err(format!("is damaged: {known:?} has {} arguments", arguments.len())),
        }
        Ok(())
    }

    /// The attributes of a dictionary, such as the versions of a `state_dict`, are left aside.
    fn build(&mut self) -> Step<()> {
        self.pop()?;
        match self.top()? {
            Pickled::Dict(_) => Ok(()),
            _ => Err("sets attributes of an object, which is not read; nothing is run".to_owned()),
        }
    }
}

fn refused(opcode: u8, at: usize) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82..=0x84 => "EXT",
        b'P' => "PERSID",
        0x96 => "BYTEARRAY8",
        0x97 | 0x98 => "NEXT_BUFFER",
        b'I' | b'L' | b'F' | b'S' | b'V' | b'l' | b'd' | b'p' | b'g' => "an opcode of protocol 0",
        _ => "an unknown opcode",
    };
    format!(
        "holds {name} (0x{opcode:02x} at byte {at} of the pickle), which is not read: only tensors and dictionaries, lists \
         and tuples of them are, and nothing is run"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pickle_that_would_run_code_is_refused_and_named() {
        let refuse = |bytes: &[u8]| unpickle(bytes).unwrap_err();
        // What `pickle.dumps` makes of an object whose __reduce__ is (os.system, ("true",)), in protocols 0, 2 and 4.
        assert!(refuse(b"cposix\nsystem\np0\n(Vtrue\np1\ntp2\nRp3\n.").contains("`posix.system`"));
        assert!(
            refuse(b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.")
                .contains("`posix.system`")
        );
        let four = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
        assert!(refuse(four).contains("`posix.system`"));
        assert!(refuse(b"(S'true'\nios\nsystem\n.").contains("protocol 0"));
        assert!(refuse(b"\x80\x02ccollections\nOrderedDict\n)\x81.").contains("NEWOBJ (0x81 at byte 28"));
        assert!(refuse(b"\x80\x02ctorch\nFloatStorage\n)R.").contains("is damaged"));
        assert!(refuse(b"\x80\x02ctorch.hub\nload\n.").contains("`torch.hub.load`"));
    }

    #[test]
    fn values_keep_their_order_and_what_is_shared_is_shared() {
        // {"a": [1, -2], "b": the same list}
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00a]q\x01(K\x01J\xfe\xff\xff\xffeX\x01\x00\x00\x00bh\x01u.";
        let found = unpickle(bytes).unwrap();
        let Pickled::Dict(pairs) = &found.values[found.root] else { panic!("a dictionary") };
        assert_eq!(pairs[0].1, pairs[1].1);
        let Pickled::List(items) = &found.values[pairs[0].1] else { panic!("a list") };
        assert_eq!(
            items.iter().map(|&id| found.values[id].clone()).collect::<Vec<_>>(),
            [Pickled::Int(1), Pickled::Int(-2)]
        );
        assert_eq!(found.length, bytes.len());
    }

    #[test]
    fn a_pickle_that_is_cut_off_is_refused_wherever() {
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.";
        for end in 0..bytes.len() {
            assert!(unpickle(&bytes[..end]).unwrap_err().contains("is cut short"), "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hang(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpickle(&bytes);
        }

        #[test]
        fn no_sequence_of_known_opcodes_makes_it_panic(
            opcodes in prop::collection::vec(prop::sample::select(b"(01NJKMX]})tabesuqhQRc.\x85\x86\x87\x88\x94\x93".to_vec()), 0..80)
        ) {
            let _ = unpickle(&opcodes);
        }
    }
}
