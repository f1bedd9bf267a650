//! Answers that no upstream gives, as they stand in the file; and pages of HTML, which are read from files.

use super::problem::Problem;
use ringmill::proxy::{Page, Pages};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// An answer that is always the same: `{ status = 200, body = "ok" }`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Reply {
    /// From 200 to 599, but not 204, 205 or 304.
    pub(crate) status: u16,
    /// The body, 16 KiB at most.
    #[serde(default)]
    pub(crate) body: String,
    /// The field Content-Type.
    #[serde(default = "text_plain")]
    pub(crate) content_type: String,
}

fn text_plain() -> String {
    "text/plain; charset=utf-8".to_owned()
}

/// Another address: `{ to = "https://www.example.com" }`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Redirect {
    /// A URL. Where it has no path, the path and the query of the request are added.
    pub(crate) to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    pub(crate) status: u16,
}

fn permanent() -> u16 {
    308
}

/// Reads pages, by status.
pub(super) fn pages(files: &BTreeMap<String, Spanned<PathBuf>>, problems: &mut Vec<Problem>) -> Pages {
    let mut pages = BTreeMap::new();
    for (status, file) in files {
        let known = status.parse::<u16>().ok().filter(|status| (400..=599).contains(status));
        let Some(known) = known else {
            let what = format!("{status:?} is no status of an error");
            problems.push(Problem::at(file.span(), what, "from 400 to 599"));
            continue;
        };
        match page(file.get_ref()) {
            Ok(page) => drop(pages.insert(known, page)),
            Err(error) => problems.push(Problem::at(file.span(), error, "")),
        }
    }
    Pages::new(pages)
}

fn page(file: &Path) -> Result<Page, String> {
    let mut text = String::new();
    // One more than there may be: then it is too long, however long it is.
    let opened =
        File::open(file).and_then(|file| file.take(Page::BYTES_MAX as u64 + 1).read_to_string(&mut text));
    opened
        .map_err(|error| error.to_string())
        .and_then(|_| Page::new(&text))
        .map_err(|error| format!("{}: {error}", file.display()))
}
