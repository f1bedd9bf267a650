//! A protocol of your own: a key-value store that a stock redis-cli talks to.
//! `cargo run --example custom_protocol`, then `redis-cli -p 6380 set name Ada` and `redis-cli -p 6380 get name`.
//!
//! It shows what a protocol needs: find whole commands in the input, consume those, leave the rest. The store
//! belongs to one worker, so this example runs one; nothing in it is locked.
//! Protocol: RESP2, <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use ringmill::{Engine, Io, Protocol, Step};
use std::collections::HashMap;

/// Limits on what a client can make us hold for it.
const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 512 * 1024;
const KEYS_MAX: usize = 1_000_000;

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:6380".to_owned());
    let engine = Engine::builder().workers(1).listen(address, |_worker| Store::default()).start()?;
    println!("key-value store on {} with {}", engine.addresses()[0], engine.driver());
    engine.join()
}

#[derive(Default)]
struct Store {
    values: HashMap<Vec<u8>, Vec<u8>>,
}

impl Protocol for Store {
    type Session = ();

    fn open(&mut self, _io: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        while !io.is_full() {
            match parse(&input[consumed..]) {
                Parsed::Command(arguments, bytes) => {
                    self.execute(&arguments, io);
                    consumed += bytes;
                }
                Parsed::EmptyLine => consumed += 2,
                Parsed::Partial => break,
                Parsed::Malformed(problem) => {
                    io.write(format!("-ERR Protocol error: {problem}\r\n").as_bytes());
                    return Step::close();
                }
            }
        }
        Step::consumed(consumed)
    }
}

impl Store {
    fn execute(&mut self, arguments: &[&[u8]], io: &mut Io<'_>) {
        let name = arguments.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        match (name.as_slice(), arguments.get(1..).unwrap_or_default()) {
            (b"PING", []) => io.write(b"+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => bulk(text, io),
            (b"SET", [key, value]) => {
                if self.values.len() < KEYS_MAX || self.values.contains_key(*key) {
                    self.values.insert(key.to_vec(), value.to_vec());
                    io.write(b"+OK\r\n");
                } else {
                    io.write(b"-ERR the store is full\r\n");
                }
            }
            (b"GET", [key]) => match self.values.get(*key) {
                Some(value) => bulk(value, io),
                None => io.write(b"$-1\r\n"),
            },
            (b"DEL", keys) if !keys.is_empty() => {
                let removed = keys.iter().filter(|key| self.values.remove(**key).is_some()).count();
                integer(removed, io);
            }
            (b"DBSIZE", []) => integer(self.values.len(), io),
            // redis-cli asks for these when it starts; an empty list is a good answer.
            (b"COMMAND", _) => io.write(b"*0\r\n"),
            (b"PING" | b"ECHO" | b"SET" | b"GET" | b"DEL" | b"DBSIZE", _) => {
                io.write(b"-ERR wrong number of arguments\r\n");
            }
            _ => io.write(b"-ERR unknown command: PING, ECHO, SET, GET, DEL and DBSIZE are known\r\n"),
        }
    }
}

fn bulk(value: &[u8], io: &mut Io<'_>) {
    io.write(format!("${}\r\n", value.len()).as_bytes());
    io.write(value);
    io.write(b"\r\n");
}

fn integer(value: usize, io: &mut Io<'_>) {
    io.write(format!(":{value}\r\n").as_bytes());
}

enum Parsed<'a> {
    /// The arguments, and how many bytes they took.
    Command(Vec<&'a [u8]>, usize),
    /// Redis ignores them between commands, and `redis-cli --pipe` sends one.
    EmptyLine,
    Partial,
    Malformed(&'static str),
}

/// One command: `*N`, then N times `$LENGTH` and so many bytes, each line ended by CRLF.
fn parse(input: &[u8]) -> Parsed<'_> {
    match input {
        [b'\r', b'\n', ..] => return Parsed::EmptyLine,
        [b'\r'] => return Parsed::Partial,
        _ => {}
    }
    let mut at = 0;
    let count = match number(input, &mut at, b'*', ARGUMENTS_MAX) {
        Ok(count) => count,
        Err(stop) => return stop,
    };
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let length = match number(input, &mut at, b'$', ARGUMENT_BYTES_MAX) {
            Ok(length) => length,
            Err(stop) => return stop,
        };
        match input.get(at..at + length + 2) {
            None => return Parsed::Partial,
            Some(argument) if argument.ends_with(b"\r\n") => arguments.push(&argument[..length]),
            Some(_) => return Parsed::Malformed("expected CRLF after an argument"),
        }
        at += length + 2;
    }
    Parsed::Command(arguments, at)
}

/// One line of a mark and a number up to `max`; moves `at` behind it.
fn number<'a>(input: &'a [u8], at: &mut usize, mark: u8, max: usize) -> Result<usize, Parsed<'a>> {
    let rest = &input[*at..];
    match rest.first() {
        None => return Err(Parsed::Partial),
        Some(first) if *first != mark => return Err(Parsed::Malformed("expected an array of bulk strings")),
        Some(_) => {}
    }
    let Some(end) = rest.iter().take(16).position(|byte| *byte == b'\n') else {
        return Err(if rest.len() < 16 {
            Parsed::Partial
        } else {
            Parsed::Malformed("a number is too long")
        });
    };
    let digits = rest[1..end].strip_suffix(b"\r").and_then(|digits| std::str::from_utf8(digits).ok());
    *at += end + 1;
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(number) if number <= max => Ok(number),
        Some(_) => Err(Parsed::Malformed("an argument is too long, or there are too many")),
        None => Err(Parsed::Malformed("expected a number")),
    }
}
