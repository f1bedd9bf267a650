//! The case files of `tests/data/http`: text in, cases out. Its README defines the format.
//!
//! Pure: what is wrong in a file is an error with the file and the line. How cases are run is not known here.
//! Read on in `replies.rs`, then in `simulated.rs` and `sockets.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// One conversation: what a client sends, what must come back, and what then becomes of the connection.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    /// Where it begins: `file:line`.
    pub place: String,
    pub sections: Vec<Section>,
    /// Runs against the server with small limits.
    pub small: bool,
    /// What it runs over, if not over both.
    pub only: Option<Over>,
    pub steps: Vec<Step>,
    pub state: State,
}

/// What carries a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Plain,
    Tls,
}

/// A section of an RFC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section {
    pub rfc: u32,
    pub number: Vec<u32>,
}

#[derive(Debug)]
pub enum Step {
    Send(Vec<u8>),
    /// What follows goes out once the server has what came before.
    Cut,
    /// This reply comes; if more is sent after it, the client waits for it first.
    Reply(Expected),
    /// The client closes its sending side.
    End,
}

/// What must be true of a reply.
#[derive(Debug)]
pub struct Expected {
    /// Any of these.
    pub statuses: Vec<u16>,
    pub body: Option<Vec<u8>>,
    /// It has the fields of a reply with a body, and no body: its request was HEAD.
    pub is_head_only: bool,
    pub fields: Vec<(String, String)>,
    pub absent: Vec<String>,
}

/// The connection after the last reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves another request.
    Kept,
    /// The server has closed it, or does so when the client ends its side.
    Closed,
    /// The server has closed it in the middle of a reply.
    Broken,
    /// The server waits for the rest of a request.
    Waits,
}

/// What is wrong with a case file, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    place: String,
    what: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number: Vec<String> = self.number.iter().map(u32::to_string).collect();
        write!(f, "RFC {} {}", self.rfc, number.join("."))
    }
}

/// All cases of the files `*.cases` in a directory, in the order of file names.
pub fn load(directory: &Path) -> Result<Vec<Case>, Malformed> {
    let unreadable = |path: &Path, error: std::io::Error| Malformed {
        place: path.display().to_string(),
        what: error.to_string(),
    };
    let entries = std::fs::read_dir(directory).map_err(|error| unreadable(directory, error))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cases"));
    paths.sort();
    let mut cases = Vec::new();
    let mut names = BTreeMap::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for case in parse(&file, &text)? {
            if let Some(first) = names.insert(case.name.clone(), case.place.clone()) {
                let what = format!("the name `{}` is taken by {first}", case.name);
                return Err(Malformed { place: case.place, what });
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

/// The cases of one file.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, Malformed> {
    let mut cases = Vec::new();
    let mut open: Option<Case> = None;
    let mut ended = 0;
    for (index, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", index + 1);
        let fail = |what: String| Malformed { place: place.clone(), what };
        ended = index + 1;
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let Some(case) = &mut open else {
            if word != "case" {
                return Err(fail(format!("expected `case NAME`, found `{line}`")));
            }
            let name = name(rest).ok_or_else(|| fail(format!("`{rest}` is not a name: a-z, 0-9, -")))?;
            let (sections, steps) = (Vec::new(), Vec::new());
            let state = State::Kept;
            open = Some(Case { name, place, sections, small: false, only: None, steps, state });
            continue;
        };
        if let Some(state) = state(line) {
            case.state = state;
            case.check().map_err(fail)?;
            cases.extend(open.take());
        } else {
            case.take(word, rest).map_err(fail)?;
        }
    }
    match open {
        None => Ok(cases),
        Some(case) => Err(Malformed {
            place: format!("{file}:{ended}"),
            what: format!("the file ends before the state of `{}`", case.name),
        }),
    }
}

fn name(text: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (!text.is_empty() && text.bytes().all(good)).then(|| text.to_owned())
}

fn state(line: &str) -> Option<State> {
    match line {
        "kept" => Some(State::Kept),
        "closed" => Some(State::Closed),
        "broken" => Some(State::Broken),
        "waits" => Some(State::Waits),
        _ => None,
    }
}

impl Case {
    /// One line of a case.
    fn take(&mut self, word: &str, rest: &str) -> Result<(), String> {
        match (word, rest) {
            ("case", _) => {
                return Err(format!("`{}` has no state: kept, closed, broken or waits", self.name));
            }
            ("rfc", rest) => self.sections.extend(sections(rest)?),
            ("note", rest) if !rest.is_empty() => {}
            ("small", "") => self.small = true,
            ("plain" | "secure", "") if self.only.is_none() => {
                self.only = Some(if word == "plain" { Over::Plain } else { Over::Tls });
            }
            ("cut", "") => self.steps.push(Step::Cut),
            ("end", "") => self.steps.push(Step::End),
            (">", rest) => {
                let bytes = unescape(rest)?;
                match self.steps.last_mut() {
                    Some(Step::Send(sent)) => sent.extend(bytes),
                    _ => self.steps.push(Step::Send(bytes)),
                }
            }
            ("<", rest) => self.steps.push(Step::Reply(expected(rest)?)),
            ("=" | "!", rest) => {
                let Some(Step::Reply(expected)) = self.steps.last_mut() else {
                    return Err("a line about a field comes after its reply".into());
                };
                match rest.split_once(": ") {
                    Some((name, value)) if word == "=" => expected.fields.push((name.into(), value.into())),
                    None if word == "!" && !rest.is_empty() => expected.absent.push(rest.into()),
                    _ => return Err("expected `= NAME: VALUE` or `! NAME`".into()),
                }
            }
            _ => return Err(format!("expected a line of a case or a state, found `{word} {rest}`")),
        }
        Ok(())
    }

    /// What holds for whole cases.
    fn check(&self) -> Result<(), String> {
        let place = |wanted: fn(&Step) -> bool| self.steps.iter().position(wanted);
        let is_last = |at: usize| self.steps[at + 1..].iter().all(|step| matches!(step, Step::Reply(_)));
        if self.sections.is_empty() {
            return Err(format!("`{}` has no section: rfc NUMBER SECTION", self.name));
        }
        if place(|step| matches!(step, Step::Send(_))).is_none() {
            return Err(format!("`{}` sends nothing", self.name));
        }
        if place(|step| matches!(step, Step::End)).is_some_and(|end| !is_last(end)) {
            return Err("after `end` nothing is sent".into());
        }
        let ends = place(|step| matches!(step, Step::End)).is_some();
        if ends && matches!(self.state, State::Kept | State::Waits) {
            return Err("after `end` the connection closes".into());
        }
        let cut = place(|step| matches!(step, Step::Cut));
        if cut.is_some_and(|at| at == 0 || is_last(at)) {
            return Err("a cut stands between bytes".into());
        }
        Ok(())
    }

    pub fn runs_over(&self, over: Over) -> bool {
        self.only.is_none_or(|only| only == over)
    }

    /// The replies in order.
    pub fn replies(&self) -> impl Iterator<Item = &Expected> {
        self.steps.iter().filter_map(|step| match step {
            Step::Reply(expected) => Some(expected),
            _ => None,
        })
    }

    /// Whether the client closes its sending side.
    pub fn ends(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::End))
    }

    /// What is sent, in the pieces between which the client waits for replies, and how many it has then.
    pub fn stages(&self) -> Vec<(Vec<u8>, usize)> {
        let mut stages: Vec<(Vec<u8>, usize)> = Vec::new();
        let mut replies = 0;
        let mut waited = true;
        for step in &self.steps {
            match step {
                Step::Send(bytes) => {
                    if std::mem::take(&mut waited) {
                        stages.push((Vec::new(), replies));
                    }
                    if let Some((stage, _)) = stages.last_mut() {
                        stage.extend(bytes);
                    }
                }
                Step::Reply(_) => {
                    replies += 1;
                    waited = true;
                }
                Step::Cut | Step::End => {}
            }
        }
        stages
    }
}

/// `NUMBER SECTION[, SECTION...]`
fn sections(text: &str) -> Result<Vec<Section>, String> {
    let wrong = || format!("expected `rfc NUMBER SECTION[, SECTION...]`, found `rfc {text}`");
    let (rfc, numbers) = text.split_once(' ').ok_or_else(wrong)?;
    let rfc = rfc.parse().map_err(|_| wrong())?;
    let section = |number: &str| {
        let number = number.split('.').map(|part| part.parse().map_err(|_| wrong()));
        Ok(Section { rfc, number: number.collect::<Result<_, _>>()? })
    };
    numbers.split(", ").map(section).collect()
}

/// `STATUS[|STATUS...] [head-only] ["BODY"]`
fn expected(text: &str) -> Result<Expected, String> {
    let wrong = || format!("expected `< STATUS[|STATUS...] [head-only] [\"BODY\"]`, found `< {text}`");
    let (statuses, rest) = text.split_once(' ').unwrap_or((text, ""));
    let status = |status: &str| status.parse().ok().filter(|status| (100..600).contains(status));
    let statuses = statuses.split('|').map(|text| status(text).ok_or_else(wrong));
    let (is_head_only, rest) = match rest.strip_prefix("head-only") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let body = match rest {
        "" => None,
        quoted => {
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(wrong)?;
            Some(unescape(inner)?)
        }
    };
    let (fields, absent) = (Vec::new(), Vec::new());
    Ok(Expected { statuses: statuses.collect::<Result<_, _>>()?, body, is_head_only, fields, absent })
}

/// Bytes from text: `\r \n \t \0 \\ \" \xHH`, and `\{COUNT:TEXT}` for repetition.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest[at + 1..].chars().next().ok_or("a `\\` at the end of a line")?;
        let after = &rest[at + 1 + escape.len_utf8()..];
        rest = match escape {
            'r' | 'n' | 't' | '0' | '\\' | '"' => {
                let known = [('r', b'\r'), ('n', b'\n'), ('t', b'\t'), ('0', b'\0')];
                bytes.push(known.iter().find(|pair| pair.0 == escape).map_or(escape as u8, |pair| pair.1));
                after
            }
            'x' => {
                let digits = after.get(..2).ok_or("`\\x` takes two hexadecimal digits")?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| "`\\x` takes two hexadecimal digits")?);
                &after[2..]
            }
            '{' => {
                let (inner, after) = after.split_once('}').ok_or("`\\{` without its `}`")?;
                let (count, text) = inner.split_once(':').ok_or("expected `\\{COUNT:TEXT}`")?;
                let count: usize = count.parse().map_err(|_| "expected a count in `\\{COUNT:TEXT}`")?;
                if count > 4 << 20 {
                    return Err("a repetition of over 4 MiB".into());
                }
                bytes.extend(unescape(text)?.repeat(count));
                after
            }
            other => return Err(format!("`\\{other}` is no escape")),
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}
