//! What one file of Rust says about its neighbours: the paths it names, what it declares, and how long it is without its tests.
//!
//! Works on tokens, so comments and strings are out of the way; it knows no types and expands no macro. What is compiled for
//! tests alone (`#[cfg(test)]`) is left out. `tree.rs` makes a crate of these.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Segments of a path as they stand there: `crate`, `driver`, `uring`.
pub type Path = Vec<String>;

#[derive(Default, Debug)]
pub struct Module {
    /// Modules inside this one: in a file of their own (`mod x;`), or in braces.
    pub files: BTreeSet<String>,
    pub inline: BTreeMap<String, Module>,
    /// Names that `use` brings in, each with the path it stands for.
    pub imported: BTreeMap<String, Path>,
    /// All paths of two and more segments, those of `use` among them, with their lines.
    pub paths: Vec<(Path, usize)>,
    /// What is declared here, in blocks as well: kind (`fn`, `struct` ...), name, line.
    pub declared: Vec<(String, String, usize)>,
}

impl Module {
    /// `declared`, here and in all modules in braces.
    pub fn all_declared(&self) -> impl Iterator<Item = &(String, String, usize)> {
        let inner: Vec<_> = self.inline.values().flat_map(Module::all_declared).collect();
        self.declared.iter().chain(inner)
    }
}

pub struct Facts {
    pub module: Module,
    pub lines_without_tests: usize,
}

/// # Panics
/// If `text` is no sequence of Rust's tokens; then it would not compile either.
pub fn read(text: &str) -> Facts {
    let tokens: TokenStream = text.parse().expect("the compiler takes it");
    let mut reader = Reader { tests: Vec::new() };
    let mut module = Module::default();
    reader.read(tokens, &mut module);
    let in_tests: usize = reader.tests.iter().map(|lines| lines.end() - lines.start() + 1).sum();
    Facts { module, lines_without_tests: text.lines().count() - in_tests }
}

struct Reader {
    tests: Vec<RangeInclusive<usize>>,
}

/// Without `const` and `static`, which are also parts of types.
const DECLARING: &[&str] = &["fn", "struct", "enum", "trait", "type", "mod"];

impl Reader {
    fn read(&mut self, tokens: TokenStream, module: &mut Module) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            at += if let Some(end) = test_only(rest) {
                self.tests.push(line(&rest[0])..=end_line(&rest[end - 1]));
                end
            } else if is_word(&rest[0], "use") {
                let end = position(rest, |token| is_punct(token, ';')).unwrap_or(rest.len());
                import(&rest[1..end], &Path::new(), module);
                end
            } else if let Some((kind, name)) = declaration(rest) {
                module.declared.push((kind.clone(), name.clone(), line(&rest[0])));
                match rest.get(2) {
                    Some(TokenTree::Group(body)) if kind == "mod" => {
                        let mut inner = Module::default();
                        self.read(body.stream(), &mut inner);
                        module.inline.insert(name, inner);
                        3
                    }
                    _ if kind == "mod" => {
                        module.files.insert(name);
                        2
                    }
                    _ => 2,
                }
            } else if let TokenTree::Group(group) = &rest[0] {
                self.read(group.stream(), module);
                1
            } else {
                let (path, end) = path(rest);
                if path.len() > 1 {
                    module.paths.push((path, line(&rest[0])));
                }
                end.max(1)
            };
        }
    }
}

/// Where an item ends that `#[cfg(test)]` stands before, if it does here.
fn test_only(tokens: &[TokenTree]) -> Option<usize> {
    let TokenTree::Group(attribute) = tokens.get(1).filter(|_| is_punct(&tokens[0], '#'))? else {
        return None;
    };
    let mut inside = attribute.stream().into_iter();
    let is_cfg = inside.next().is_some_and(|token| is_word(&token, "cfg"));
    if !is_cfg || inside.next()?.to_string() != "(test)" {
        return None;
    }
    let mut at = 2;
    while is_punct(tokens.get(at)?, '#') {
        at += 2;
    }
    // An item with a body ends with it; of `use a::{b};` the braces are no body.
    let body =
        |token: &TokenTree| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
    let is_use = |token: &TokenTree| is_word(token, "use");
    let end = position(&tokens[at..], |token| is_punct(token, ';') || body(token))?;
    let end = match tokens[at..at + end].iter().any(is_use) {
        true => position(&tokens[at..], |token| is_punct(token, ';'))?,
        false => end,
    };
    Some(at + end + 1)
}

/// The kind and the name of what is declared here.
fn declaration(tokens: &[TokenTree]) -> Option<(String, String)> {
    let (TokenTree::Ident(kind), TokenTree::Ident(name)) = (&tokens[0], tokens.get(1)?) else { return None };
    let (kind, name) = (kind.to_string(), name.to_string());
    DECLARING.contains(&kind.as_str()).then_some((kind, name))
}

/// The path that starts here, and how many tokens it takes.
fn path(tokens: &[TokenTree]) -> (Path, usize) {
    let mut found = Path::new();
    let mut at = 0;
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        found.push(word.to_string());
        at += 1;
        if !is_double_colon(&tokens[at..]) {
            break;
        }
        at += 2;
    }
    (found, at)
}

/// Reads one tree of a `use`, whose front is `before`.
fn import(tokens: &[TokenTree], before: &Path, module: &mut Module) {
    let start = usize::from(is_double_colon(tokens)) * 2;
    let (segments, end) = path(&tokens[start..]);
    let rest = &tokens[start + end..];
    let mut full = before.clone();
    full.extend(segments);
    match rest.first() {
        Some(TokenTree::Group(group)) => import_each(group, &full, module),
        Some(star) if is_punct(star, '*') => {
            module.paths.push((full, line(star)));
        }
        other => {
            let line = tokens.first().map_or(0, line);
            if full.last().is_some_and(|last| last == "self") && full.len() > 1 {
                full.pop();
            }
            let alias = match other {
                Some(word) if is_word(word, "as") => rest.get(1).map(ToString::to_string),
                _ => full.last().cloned(),
            };
            module.paths.push((full.clone(), line));
            module.imported.extend(alias.map(|alias| (alias, full)));
        }
    }
}

fn import_each(group: &Group, before: &Path, module: &mut Module) {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    for tree in tokens.split(|token| is_punct(token, ',')).filter(|tree| !tree.is_empty()) {
        import(tree, before, module);
    }
}

fn position(tokens: &[TokenTree], is_it: impl Fn(&TokenTree) -> bool) -> Option<usize> {
    tokens.iter().position(is_it)
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_punct(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(found) if found.as_char() == punct)
}

fn is_double_colon(tokens: &[TokenTree]) -> bool {
    tokens.len() > 1 && is_punct(&tokens[0], ':') && is_punct(&tokens[1], ':')
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

fn end_line(token: &TokenTree) -> usize {
    token.span().end().line
}
