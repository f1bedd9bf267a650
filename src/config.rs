//! The file of `ringmill serve --config`: read, checked as a whole, and turned into what runs.
//!
//! `schema.rs` is what may stand in it, of which `observe.rs` has what is told of requests and `gate.rs` who may come in, `text.rs` the values that people write as text. `read.rs` makes the types of the text,
//! `settle.rs` what runs of the types, with every problem (`problem.rs`) that there is. `reference.rs` describes the file, from the
//! same types. A plan with names in it is a draft (`draft.rs`). Never here: sockets, and what becomes of a request.

mod answers;
mod draft;
mod either;
mod gate;
mod http2;
mod limit;
mod lists;
mod members;
mod observe;
mod peers;
mod problem;
mod read;
mod reference;
mod relays;
mod schema;
mod settle;
pub(crate) mod text;

pub(crate) use draft::{Draft, Drafted, Entry};
pub(crate) use gate::Said;
pub(crate) use lists::{Listed, list};
pub(crate) use peers::{Known, Trust};
pub(crate) use problem::Problems;
pub(crate) use reference::reference;
pub(crate) use schema::Server as StartOnly;
pub(crate) use settle::{Listen, Settled};

use std::path::{Path, PathBuf};

/// A file that was read, for what is said of it.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Source, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Source { path: path.to_owned(), text }),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// What runs by this file, or all that is wrong with it.
    pub(crate) fn settle(&self, known: &mut Known) -> Result<Settled, Problems> {
        let mut problems = Vec::new();
        let file = read::read(&self.text, &mut problems);
        let settled = file.map(|file| settle::settle(&file, known, &mut problems));
        match settled {
            Some(settled) if problems.is_empty() => Ok(settled),
            _ => Err(Problems(problems)),
        }
    }
}
