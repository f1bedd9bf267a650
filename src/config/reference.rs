//! The reference of the file (`tuning/FILE.md`), from its types: `ringmill check --reference > tuning/FILE.md`. A test fails when they differ.

use super::read::{resolve, schema};
use serde_json::Value as Json;
use std::fmt::Write;

const HEAD: &str = "\
<!-- Written by `ringmill check --reference`. Change the types in src/config/schema.rs, not this file. -->
# The file

`ringmill serve --config FILE` serves by a file in [TOML](https://toml.io); `ringmill check FILE` says all that is wrong with one, and
`ringmill explain GET https://example.com/api --config FILE` what becomes of a request. On SIGHUP the file is read again: what did not change, and every
open connection, goes on. If anything is wrong with it, what held before holds on.

This is a whole one:

```toml
[[listen]]
address = \"127.0.0.1:8080\"

[[route]]
to = \"app\"
[upstream.app]
servers = [\"127.0.0.1:3000\"]
```

A key that is not listed here is refused.

";

const TAIL: &str = "\
## What a path and a host are

Routes are chosen by the normal form of a request's host and path, and the upstream gets the same form. Of a path, escapes of letters, digits and `-._~` are
decoded, other escapes are in upper case, `.` and `..` are resolved, and repeated slashes are one. A host is in lower case, without the dot
behind its last label, and without port 80, or 443 where the connection is secured. What servers differ about is answered with 400: a `%` without two
hexadecimal digits, `%00`, `\\`, `#`, a path that leads above the root, `..;`, and a host that is neither a name nor an address. `%2F` and `%5C` stay
as they are where the request would take the same route with a slash in their place; else the answer is 400 as well.

What no route takes is answered with 404, or with 405 where a route would take it with another method.
";

/// The reference.
pub(crate) fn reference() -> String {
    let whole = schema();
    let mut text = HEAD.to_owned();
    section(&mut text, "", &whole, &whole);
    text.push_str(TAIL);
    text
}

/// A table with all its keys, and behind it the tables in it.
fn section(text: &mut String, title: &str, table: &Json, whole: &Json) {
    let (mut rows, mut inner) = (String::new(), Vec::new());
    for (key, property) in table["properties"].as_object().into_iter().flatten() {
        let shape = resolve(property, whole);
        let (is_list, element) = match shape.get("items") {
            Some(items) => (true, resolve(items, whole)),
            None => (false, shape),
        };
        let named =
            shape.get("additionalProperties").filter(|any| any.is_object()).map(|any| resolve(any, whole));
        let (is_map, named) = (named.is_some(), named.filter(|any| any.get("properties").is_some()));
        let path = if title.is_empty() { key.clone() } else { format!("{title}.{key}") };
        if let Some(named) = named {
            inner.push((format!("{path}.NAME"), named));
        } else if element.get("properties").is_some() {
            inner.push((path, element));
        }
        let is_required = table["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key));
        let default = match property.get("default") {
            _ if is_required => "**needed**".to_owned(),
            Some(default) if is_plain(default) => format!("`{default}`"),
            _ => String::new(),
        };
        let meaning = property.get("description").or(shape.get("description"));
        let meaning = line(meaning.and_then(Json::as_str).unwrap_or_default());
        let meaning = meaning + &variants(element);
        let kind = match (named, is_map) {
            (Some(_), _) => "tables".to_owned(),
            (None, true) => "table of texts".to_owned(),
            (None, false) => kind(element, is_list),
        };
        let _ = writeln!(rows, "| `{key}` | {kind} | {default} | {meaning} |");
    }
    if !title.is_empty() {
        let _ = writeln!(text, "## `{title}`\n");
        let about = table.get("description").and_then(Json::as_str).unwrap_or_default();
        let _ = writeln!(text, "{}\n", line(about));
    } else {
        text.push_str("## All of it\n\n");
    }
    let _ = writeln!(text, "| key | what it takes | default | |\n|---|---|---|---|\n{rows}");
    for (title, table) in inner {
        section(text, &title, table, whole);
    }
}

fn is_plain(default: &Json) -> bool {
    default.is_string() || default.is_number() || default.is_boolean()
}

fn kind(element: &Json, is_list: bool) -> String {
    let types = [&element["type"]].into_iter().chain(element["type"].as_array().into_iter().flatten());
    let first = types.filter_map(Json::as_str).find(|kind| *kind != "null");
    let one = match (element.get("format").and_then(Json::as_str), first) {
        _ if element.get("properties").is_some() => "table",
        (Some(format), Some("string")) => format,
        (_, Some("integer")) => "number",
        (_, Some("boolean")) => "true or false",
        _ => "text",
    };
    if is_list { format!("list: {one}") } else { one.to_owned() }
}

/// What an enumeration consists of.
fn variants(element: &Json) -> String {
    let all = element["oneOf"].as_array().into_iter().flatten();
    let one = |variant: &Json| {
        let about = line(variant["description"].as_str().unwrap_or_default());
        format!(" `{}`: {about}", variant["const"])
    };
    all.map(one).collect()
}

fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/FILE.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == super::reference(),
            "tuning/FILE.md is not what the types say; write it with:\n  \
             cargo run -- check --reference > tuning/FILE.md"
        );
    }
}
