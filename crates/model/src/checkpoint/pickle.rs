//! The part of Python's pickle language that `torch.save` writes, read as data: nothing is imported, called or run.
//!
//! A pickle is a program for a stack machine. This one knows the instructions that describe dictionaries of tensors, and
//! the few names that they refer to; anything else is an error that says what it was. Values live in one flat arena,
//! so that neither nesting nor cycles in a hostile file can exhaust the stack, and each instruction makes at most one
//! value, so that memory is bounded by the pickle's length.
//!
//! The instructions are documented in CPython's `Lib/pickletools.py`.

use std::collections::{BTreeMap, HashMap};

use super::record::{Storage, StorageKind, TensorRecord};
use crate::error::CheckpointError;

/// The tensors of a state dict by their names: of the dictionary itself, or of the one that it keeps under `state_dict`,
/// `model` or the like.
pub(super) fn tensors(pickle: &[u8]) -> Result<BTreeMap<&str, TensorRecord<'_>>, CheckpointError> {
    let mut machine = Machine::new(pickle);
    let root = machine.run()?;
    machine.state_dict(root)
}

/// Dimensions beyond which a tensor is refused; those of this model have three at most.
const MAX_DIMENSIONS: usize = 8;

/// The names of a dictionary that may hold the state dict, in order of preference.
const NESTED: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "state"];

/// A value; what does not fit in it is in the arena, at an index.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(usize),
    List,
    Dictionary(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    Mark,
}

/// The names from Python modules that a description of tensors needs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(StorageKind),
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    memo: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    dictionaries: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<TensorRecord<'a>>,
}

impl<'a> Machine<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            at: 0,
            stack: Vec::new(),
            memo: HashMap::new(),
            tuples: Vec::new(),
            dictionaries: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        }
    }

    fn error(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Pickle { at: self.at, reason: reason.into() }
    }

    /// Runs to the end; the result is the value on top of the stack.
    fn run(&mut self) -> Result<Value<'a>, CheckpointError> {
        loop {
            let code = self.byte()?;
            if code == b'.' {
                return self.pop();
            }
            let handled = self.push_scalar(code)? || self.build_container(code)? || self.refer(code)?;
            if !handled {
                let name =
                    if code.is_ascii_graphic() { format!(" ('{}')", code as char) } else { String::new() };
                return Err(self.error(format!(
                    "instruction 0x{code:02x}{name} is none of those that describe tensors"
                )));
            }
        }
    }

    /// Instructions that push a number, a text or the like. Returns whether `code` is one.
    fn push_scalar(&mut self, code: u8) -> Result<bool, CheckpointError> {
        let value = match code {
            0x80 => {
                let version = self.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(self.error(format!("protocol {version}: expected 2 to 5")));
                }
                return Ok(true);
            }
            0x95 => {
                self.take(8)?; // the length of a frame, which only helps streaming
                return Ok(true);
            }
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool,
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                Value::Float
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.text(length)?
            }
            0x8c => {
                let length = self.byte()?.into();
                self.text(length)?
            }
            _ => return Ok(false),
        };
        self.stack.push(value);
        Ok(true)
    }

    /// Instructions that make or fill tuples, lists and dictionaries. Returns whether `code` is one.
    fn build_container(&mut self, code: u8) -> Result<bool, CheckpointError> {
        match code {
            b'(' => self.stack.push(Value::Mark),
            b')' => self.push_tuple(Vec::new()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items);
            }
            0x85..=0x87 => {
                let length = usize::from(code - 0x84);
                let start =
                    self.stack.len().checked_sub(length).ok_or_else(|| self.error("the stack is empty"))?;
                let items = self.stack.split_off(start);
                self.push_tuple(items);
            }
            // What a list holds is never needed, only that it is one.
            b']' => self.stack.push(Value::List),
            b'a' => {
                self.pop()?;
                self.expect_list()?;
            }
            b'e' => {
                self.pop_to_mark()?;
                self.expect_list()?;
            }
            b'}' => self.push_dictionary(),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Instructions about the memo, names, calls and storages. Returns whether `code` is one.
    fn refer(&mut self, code: u8) -> Result<bool, CheckpointError> {
        match code {
            b'q' => {
                let slot = self.byte()?.into();
                self.store(slot)?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.store(slot)?;
            }
            0x94 => {
                let slot = self.memo.len() as u32;
                self.store(slot)?;
            }
            b'h' => {
                let slot = self.byte()?.into();
                self.recall(slot)?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push_global(module, name)?,
                _ => return Err(self.error("a name that is not a text")),
            },
            b'R' => self.call()?,
            b'b' => self.set_state()?,
            b'Q' => self.push_storage()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn push_tuple(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.tuples.len()));
        self.tuples.push(items);
    }

    fn push_dictionary(&mut self) {
        self.stack.push(Value::Dictionary(self.dictionaries.len()));
        self.dictionaries.push(Vec::new());
    }

    fn expect_list(&self) -> Result<(), CheckpointError> {
        match self.stack.last() {
            Some(Value::List) => Ok(()),
            _ => Err(self.error("something is appended to what is not a list")),
        }
    }

    fn set_items(&mut self, items: Vec<Value<'a>>) -> Result<(), CheckpointError> {
        let Some(Value::Dictionary(index)) = self.stack.last().copied() else {
            return Err(self.error("items are set in what is not a dictionary"));
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.error("a key of a dictionary has no value"));
        }
        self.dictionaries[index].extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn store(&mut self, slot: u32) -> Result<(), CheckpointError> {
        let value = self.stack.last().copied().ok_or_else(|| self.error("the stack is empty"))?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), CheckpointError> {
        let value = self.memo.get(&slot).copied();
        let value = value.ok_or_else(|| self.error(format!("slot {slot} of the memo is empty")))?;
        self.stack.push(value);
        Ok(())
    }

    /// Pushes one of the known names; nothing is looked up anywhere.
    fn push_global(&mut self, module: &str, name: &str) -> Result<(), CheckpointError> {
        let storage = || StorageKind::of_class(name).map(Global::Storage);
        let global = match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
            ("torch" | "torch.storage", _) => storage(),
            _ => None,
        };
        let Some(global) = global else {
            return Err(CheckpointError::ForbiddenGlobal { name: shortened(&format!("{module}.{name}")) });
        };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// `REDUCE`: a known name is applied to a tuple of arguments.
    fn call(&mut self) -> Result<(), CheckpointError> {
        let (Value::Tuple(arguments), Value::Global(global)) = (self.pop()?, self.pop()?) else {
            return Err(self.error("a call without a name and a tuple of arguments"));
        };
        match (global, self.tuples[arguments].as_slice()) {
            (Global::OrderedDict, _) => self.push_dictionary(),
            (
                Global::RebuildTensor,
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ..,
                ],
            ) => self.push_tensor(storage, offset, shape, strides)?,
            (Global::RebuildParameter, &[Value::Tensor(tensor), ..]) => {
                self.stack.push(Value::Tensor(tensor))
            }
            (Global::RebuildTensor | Global::RebuildParameter, _) => {
                return Err(self.error("a tensor is described by other arguments than torch.save writes"));
            }
            (Global::Storage(_), _) => return Err(self.error("a storage is made, not referred to")),
        }
        Ok(())
    }

    fn push_tensor(
        &mut self,
        storage: usize,
        offset: i64,
        shape: usize,
        strides: usize,
    ) -> Result<(), CheckpointError> {
        let offset =
            usize::try_from(offset).map_err(|_| self.error(format!("a tensor starts at {offset}")))?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(self.error(format!("a tensor of shape {shape:?} has strides {strides:?}")));
        }
        self.stack.push(Value::Tensor(self.tensors.len()));
        self.tensors.push(TensorRecord { storage: self.storages[storage], offset, shape, strides });
        Ok(())
    }

    /// A tuple of whole numbers, as shapes and strides are.
    fn sizes(&self, tuple: usize) -> Result<Vec<usize>, CheckpointError> {
        let items = &self.tuples[tuple];
        if items.len() > MAX_DIMENSIONS {
            return Err(self.error(format!(
                "a tensor has {} dimensions: expected {MAX_DIMENSIONS} at most",
                items.len()
            )));
        }
        let sizes = items.iter().map(|item| match item {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        });
        sizes
            .collect::<Option<_>>()
            .ok_or_else(|| self.error("a tensor's shape or strides are no whole numbers"))
    }

    /// `BUILD`: attributes of an object. Those of an `OrderedDict` are notes on versions, which nothing here needs.
    fn set_state(&mut self) -> Result<(), CheckpointError> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dictionary(_) | Value::Tensor(_)) => Ok(()),
            _ => Err(self.error("attributes are set on what is not a dictionary")),
        }
    }

    /// `BINPERSID`: the tuple `("storage", class, key, device, elements)` refers to an entry of the archive.
    fn push_storage(&mut self) -> Result<(), CheckpointError> {
        let unexpected = "a reference to something outside the pickle is not one to a storage";
        let Value::Tuple(tuple) = self.pop()? else { return Err(self.error(unexpected)) };
        let &[
            Value::Text("storage"),
            Value::Global(Global::Storage(kind)),
            Value::Text(key),
            _,
            Value::Int(elements),
            ..,
        ] = self.tuples[tuple].as_slice()
        else {
            return Err(self.error(unexpected));
        };
        let elements =
            usize::try_from(elements).map_err(|_| self.error(format!("a storage of {elements} elements")))?;
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(Storage { key, kind, elements });
        Ok(())
    }

    /// The tensors of the state dict that `root` is or holds. Of equal names the last counts, as in Python.
    fn state_dict(self, root: Value<'a>) -> Result<BTreeMap<&'a str, TensorRecord<'a>>, CheckpointError> {
        let mut value = root;
        for _ in 0..=NESTED.len() {
            let Value::Dictionary(index) = value else { break };
            let items = &self.dictionaries[index];
            let tensors = items.iter().filter_map(|item| match item {
                (Value::Text(name), Value::Tensor(tensor)) => Some((*name, self.tensors[*tensor].clone())),
                _ => None,
            });
            let tensors: BTreeMap<_, _> = tensors.collect();
            if !tensors.is_empty() {
                return Ok(tensors);
            }
            let named = |name| {
                items.iter().find_map(|(key, value)| {
                    (*key == Value::Text(name) && matches!(value, Value::Dictionary(_))).then_some(*value)
                })
            };
            match NESTED.into_iter().find_map(named) {
                Some(inner) => value = inner,
                None => break,
            }
        }
        Err(self.error("it holds no dictionary of tensors, as a state dict is one"))
    }

    fn pop(&mut self) -> Result<Value<'a>, CheckpointError> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err(self.error("the stack is empty")),
            Some(value) => Ok(value),
        }
    }

    /// The values above the last mark, which goes too.
    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, CheckpointError> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or_else(|| self.error("the stack has no mark"))?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CheckpointError> {
        let end = self.at.checked_add(length);
        let bytes = end.and_then(|end| self.input.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.error("it ends in the middle of an instruction"))?;
        self.at += length;
        Ok(bytes)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], CheckpointError> {
        let mut array = [0; LENGTH];
        array.copy_from_slice(self.take(LENGTH)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, CheckpointError> {
        self.array().map(|[byte]| byte)
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, CheckpointError> {
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(Value::Text).map_err(|_| self.error("a text is not UTF-8"))
    }

    /// A whole number of up to eight bytes, little-endian two's complement.
    fn long(&mut self) -> Result<Value<'a>, CheckpointError> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(self.error(format!("a whole number of {length} bytes: expected 8 at most")));
        }
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut padded = [fill; 8];
        padded[..length].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(padded)))
    }

    /// The text up to the next line break, as `GLOBAL` writes module and name.
    fn line(&mut self) -> Result<&'a str, CheckpointError> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n');
        let length = length.ok_or_else(|| self.error("a name does not end"))?;
        let line = self.take(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| self.error("a name is not UTF-8"))
    }
}

/// `text`, cut where it is long: it comes from outside and goes into an error message.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
