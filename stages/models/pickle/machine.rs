//! The part of the pickle machine that state dicts of plain tensors need.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::value::{Class, Value, build, storage};

/// Where the program is, and what it has made.
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

/// What a pickle makes of an empty stack.
pub fn run(program: &[u8]) -> Result<Value> {
    let mut machine = Machine {
        rest: program,
        stack: vec![],
        memo: HashMap::new(),
    };
    loop {
        let at = program.len() - machine.rest.len();
        let opcode = machine.byte()?;
        match machine.step(opcode) {
            Ok(false) => {}
            Ok(true) => return machine.pop(),
            Err(error) => {
                return Err(error.context(format!("pickle opcode {opcode:#04x} at byte {at}")));
            }
        }
    }
}

impl Machine<'_> {
    /// Carries out one instruction; true once the program ends.
    fn step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            // PROTO, FRAME
            0x80 => {
                self.byte()?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'.' => return Ok(true),
            b'(' => self.stack.push(Value::Mark),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let bytes = self.array::<4>()?;
                self.stack
                    .push(Value::Int(i64::from(i32::from_le_bytes(bytes))));
            }
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(i64::from(value)));
            }
            b'M' => {
                let bytes = self.array::<2>()?;
                self.stack
                    .push(Value::Int(i64::from(u16::from_le_bytes(bytes))));
            }
            0x8a => {
                let n = usize::from(self.byte()?);
                ensure!(n <= 8, "an integer of {n} bytes");
                let bytes = self.take(n)?;
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut whole = [if negative { 0xff } else { 0 }; 8];
                whole[..n].copy_from_slice(bytes);
                self.stack.push(Value::Int(i64::from_le_bytes(whole)));
            }
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let n = u32::from_le_bytes(self.array()?) as usize;
                self.text(n)?;
            }
            0x8c => {
                let n = usize::from(self.byte()?);
                self.text(n)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE; BINGET, LONG_BINGET
            b'q' => {
                let key = u32::from(self.byte()?);
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = u32::from(self.byte()?);
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE; EMPTY_LIST, EMPTY_DICT
            b')' => self.stack.push(Value::Tuple(vec![])),
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                let from = self
                    .stack
                    .len()
                    .checked_sub(n)
                    .context("the stack is empty")?;
                let items = self.stack.split_off(from);
                self.stack.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.stack.push(Value::Tuple(items));
            }
            b']' => self.stack.push(Value::List),
            b'}' => self.stack.push(Value::Dict(vec![])),
            // SETITEM, SETITEMS
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
                self.class(&module, &name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.class(&module, &name)?,
                _ => bail!("a class without a name"),
            },
            // BINPERSID, REDUCE, BUILD
            b'Q' => {
                let id = self.pop()?;
                self.stack.push(storage(id)?);
            }
            b'R' => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.stack.push(build(callee, args)?);
            }
            // A state dict carries its version numbers as an attribute; nothing of ours has any.
            b'b' => {
                self.pop()?;
            }
            _ => bail!(
                "it is not needed for tensors, so it is not carried out; hint: save \
                 net.state_dict(), not the network"
            ),
        }
        Ok(false)
    }

    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .context("the pickle is cut off")?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<String> {
        let n = self
            .rest
            .iter()
            .position(|&b| b == b'\n')
            .context("the pickle is cut off")?;
        let line = String::from_utf8(self.take(n)?.to_vec())?;
        self.byte()?;
        Ok(line)
    }

    fn text(&mut self, n: usize) -> Result<()> {
        let text = String::from_utf8(self.take(n)?.to_vec())?;
        self.stack.push(Value::Text(text));
        Ok(())
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

    fn remember(&mut self, key: u32) -> Result<()> {
        let value = self.stack.last().context("the stack is empty")?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let value = self
            .memo
            .get(&key)
            .context("nothing was remembered there")?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn put(&mut self, items: Vec<Value>) -> Result<()> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else {
            bail!("there is no dict")
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            dict.push((key, value));
        }
        Ok(())
    }

    fn class(&mut self, module: &str, name: &str) -> Result<()> {
        self.stack.push(Value::Class(Class::named(module, name)?));
        Ok(())
    }
}
