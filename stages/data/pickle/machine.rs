//! The part of the pickle machine that needs no code of its caller.

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::class::{Class, fill, storage};
use super::value::{Cell, Heap, Value};

/// Instructions of one pickle; a state dict takes some thirty for each tensor.
const STEPS: usize = 5_000_000;
/// Bytes of one text or block of bytes.
const BLOCK: u64 = 1 << 30;

/// Where the program is, and what it has made.
struct Machine<'a, R> {
    program: &'a mut R,
    at: u64,
    stack: Vec<Value>,
    memo: HashMap<u64, Value>,
    heap: Heap,
}

/// What a pickle makes of an empty stack. Reading stops behind it.
pub fn run(program: &mut impl BufRead) -> Result<(Value, Heap)> {
    let mut machine = Machine {
        program,
        at: 0,
        stack: vec![],
        memo: HashMap::new(),
        heap: Heap::default(),
    };
    for _ in 0..STEPS {
        let at = machine.at;
        let opcode = machine.byte()?;
        match machine.step(opcode) {
            Ok(false) => {}
            Ok(true) => return Ok((machine.pop()?, machine.heap)),
            Err(error) => {
                return Err(error.context(format!("pickle opcode {opcode:#04x} at byte {at}")));
            }
        }
    }
    bail!("the pickle has more than {STEPS} instructions")
}

impl<R: BufRead> Machine<'_, R> {
    /// Carries out one instruction; true once the program ends.
    fn step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            // PROTO, FRAME
            0x80 => {
                self.byte()?;
            }
            0x95 => {
                self.array::<8>()?;
            }
            b'.' => return Ok(true),
            b'(' => self.stack.push(Value::Mark),
            // POP, POP_MARK, DUP
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.since_mark()?;
            }
            b'2' => {
                let value = self.top()?.clone();
                self.stack.push(value);
            }
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)),
            // INT, LONG, BININT, BININT1, BININT2, LONG1, LONG4
            b'I' | b'L' => {
                let line = self.line()?;
                self.stack.push(match &line[..] {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    digits => Value::Int(digits.trim_end_matches('L').parse()?),
                });
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => {
                let n = self.byte()?;
                self.long(n.into())?;
            }
            0x8b => {
                let n = u32::from_le_bytes(self.array()?);
                self.long(n.into())?;
            }
            // FLOAT, BINFLOAT
            b'F' => {
                self.line()?;
                self.stack.push(Value::Float);
            }
            b'G' => {
                self.array::<8>()?;
                self.stack.push(Value::Float);
            }
            // SHORT_BINSTRING, BINSTRING: Python 2's text, which is bytes
            b'U' => {
                let n = self.byte()?;
                self.bytes(n.into())?;
            }
            b'T' => {
                let n = u32::from_le_bytes(self.array()?);
                self.bytes(n.into())?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => {
                let n = self.byte()?;
                self.text(n.into())?;
            }
            b'X' => {
                let n = u32::from_le_bytes(self.array()?);
                self.text(n.into())?;
            }
            0x8d => {
                let n = u64::from_le_bytes(self.array()?);
                self.text(n)?;
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => {
                let n = self.byte()?;
                self.bytes(n.into())?;
            }
            b'B' => {
                let n = u32::from_le_bytes(self.array()?);
                self.bytes(n.into())?;
            }
            0x8e | 0x96 => {
                let n = u64::from_le_bytes(self.array()?);
                self.bytes(n)?;
            }
            // PUT, BINPUT, LONG_BINPUT, MEMOIZE; GET, BINGET, LONG_BINGET
            b'p' => {
                let key = self.line()?.parse()?;
                self.remember(key)?;
            }
            b'q' => {
                let key = self.byte()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key.into())?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let key = self.line()?.parse()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key.into())?;
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.hold(Cell::Tuple(vec![])),
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(n);
                let items = self.stack.split_off(from.context("the stack is empty")?);
                self.hold(Cell::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.hold(Cell::Tuple(items));
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => self.hold(Cell::List(vec![])),
            b'l' => {
                let items = self.since_mark()?;
                self.hold(Cell::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            // EMPTY_SET, ADDITEMS, FROZENSET: no tensor lies in a set
            0x8f => self.stack.push(Value::Other),
            0x90 => {
                self.since_mark()?;
            }
            0x91 => {
                self.since_mark()?;
                self.stack.push(Value::Other);
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.hold(Cell::Dict(vec![])),
            b'd' => {
                let items = self.since_mark()?;
                self.hold(Cell::Dict(vec![]));
                self.put(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.put(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.put(items)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Class(Class::named(&module, &name)?));
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => {
                    self.stack.push(Value::Class(Class::named(&module, &name)?));
                }
                _ => bail!("a class without a name"),
            },
            // BINPERSID; REDUCE, NEWOBJ, NEWOBJ_EX; BUILD
            b'Q' => {
                let id = self.pop()?;
                let storage = storage(&id, &mut self.heap)?;
                self.stack.push(storage);
            }
            b'R' | 0x81 | 0x92 => {
                if opcode == 0x92 {
                    // Named arguments.
                    self.pop()?;
                }
                let (args, class) = (self.pop()?, self.pop()?);
                let Value::Class(class) = class else {
                    bail!("a call of something that is no class")
                };
                let args = self.heap.arguments(&args)?;
                let made = class.call(&args, &mut self.heap)?;
                self.stack.push(made);
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?.clone();
                fill(&object, &state, &mut self.heap)?;
            }
            _ => bail!(
                "it is not needed for tensors, so it is not carried out; hint: \
                 torch.save(net.state_dict(), file) saves tensors alone"
            ),
        }
        Ok(false)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.program
            .read_exact(&mut out)
            .context("the pickle is cut off")?;
        self.at += N as u64;
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn take(&mut self, n: u64) -> Result<Vec<u8>> {
        ensure!(n <= BLOCK, "{n} bytes at once");
        let mut bytes = vec![];
        let read = self.program.by_ref().take(n).read_to_end(&mut bytes)?;
        ensure!(read as u64 == n, "the pickle is cut off");
        self.at += n;
        Ok(bytes)
    }

    /// Up to the end of the line; names and numbers are short.
    fn line(&mut self) -> Result<String> {
        let mut bytes = vec![];
        let read = self
            .program
            .by_ref()
            .take(1 << 12)
            .read_until(b'\n', &mut bytes)?;
        self.at += read as u64;
        ensure!(bytes.pop() == Some(b'\n'), "the pickle is cut off");
        Ok(String::from_utf8(bytes)?)
    }

    fn text(&mut self, n: u64) -> Result<()> {
        let text = String::from_utf8(self.take(n)?)?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn bytes(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.stack.push(Value::Bytes(Rc::from(bytes)));
        Ok(())
    }

    fn long(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        self.stack.push(match whole.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(&bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            None => Value::Long(bytes.into()),
        });
        Ok(())
    }

    fn hold(&mut self, cell: Cell) {
        let value = self.heap.hold(cell);
        self.stack.push(value);
    }

    fn top(&self) -> Result<&Value> {
        self.stack.last().context("the stack is empty")
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().context("the stack is empty")
    }

    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark));
        let items = self.stack.split_off(mark.context("there is no mark")? + 1);
        self.stack.pop();
        Ok(items)
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let value = self.top()?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let value = self.memo.get(&key);
        let value = value.context("nothing was remembered there")?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        let list = self.top()?.clone();
        match (self.heap.cell_mut(&list), &list) {
            (Some(Cell::List(list)), _) => list.extend(items),
            (_, Value::Other) => {}
            _ => bail!("there is no list"),
        }
        Ok(())
    }

    fn put(&mut self, items: Vec<Value>) -> Result<()> {
        let dict = self.top()?.clone();
        let mut items = items.into_iter();
        match (self.heap.cell_mut(&dict), &dict) {
            (Some(Cell::Dict(dict)), _) => {
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    dict.push((key, value));
                }
            }
            (_, Value::Other) => {}
            _ => bail!("there is no dict"),
        }
        Ok(())
    }
}
