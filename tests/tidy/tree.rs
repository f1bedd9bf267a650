//! A crate as a tree of modules: which file a path leads to, and which files import each other in a circle.
//!
//! A path through a `pub use` leads to the file where the name is declared, so that a crate's first page does not close
//! circles by naming everything. Methods are no imports: `impl Worker` may be spread over files.

use crate::facts::{Facts, Module, Path};
use std::collections::{BTreeMap, BTreeSet};

/// Files by their path in the repository.
pub type Files = BTreeMap<String, Facts>;

pub struct Tree<'a> {
    files: &'a Files,
    /// Where each module is: its file, and what it says.
    modules: BTreeMap<Path, Place>,
}

struct Place {
    file: String,
    /// The names of the modules in braces that lead from the file to this one.
    inline: Path,
}

/// One file names something in another, at a line.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Debug)]
pub struct Import {
    pub from: String,
    pub to: String,
    pub line: usize,
}

impl std::fmt::Display for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} names {}", self.from, self.line, self.to)
    }
}

/// A `pub use` of a `pub use` of a `pub use`: whoever goes further has gone wrong.
const REEXPORTS_MAX: usize = 8;

impl<'a> Tree<'a> {
    /// # Panics
    /// If `root`, or the file of a `mod x;`, is not among `files`.
    pub fn of(root: &str, files: &'a Files) -> Tree<'a> {
        let mut tree = Tree { files, modules: BTreeMap::new() };
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let mut left = vec![(Path::new(), root.to_owned(), folder)];
        while let Some((path, file, folder)) = left.pop() {
            let facts =
                files.get(&file).unwrap_or_else(|| panic!("there is no {file} for {}", path.join("::")));
            tree.place(&facts.module, &path, &file, &Path::new());
            let mut inside = Vec::new();
            children(&facts.module, &Path::new(), &mut inside);
            for child in inside {
                let below = format!("{folder}/{}", child.join("/"));
                let candidates = [format!("{below}.rs"), format!("{below}/mod.rs")];
                let found =
                    candidates.iter().find(|name| files.contains_key(*name)).unwrap_or(&candidates[0]);
                left.push(([&path[..], &child[..]].concat(), found.clone(), below));
            }
        }
        tree
    }

    fn place(&mut self, module: &Module, path: &Path, file: &str, inline: &Path) {
        self.modules.insert(path.clone(), Place { file: file.to_owned(), inline: inline.clone() });
        for (name, inner) in &module.inline {
            let below = |path: &Path| [&path[..], std::slice::from_ref(name)].concat();
            self.place(inner, &below(path), file, &below(inline));
        }
    }

    fn module(&self, path: &[String]) -> Option<&Module> {
        let place = self.modules.get(path)?;
        let top = &self.files[&place.file].module;
        place.inline.iter().try_fold(top, |module, name| module.inline.get(name))
    }

    /// The files that `mod` leads to from the root, without tests.
    pub fn files(&self) -> BTreeMap<&str, &'a Facts> {
        self.modules.values().map(|place| (place.file.as_str(), &self.files[&place.file])).collect()
    }

    /// All that files name in each other, each pair once.
    pub fn imports(&self) -> Vec<Import> {
        let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (path, place) in &self.modules {
            let module = self.module(path).expect("it was placed");
            for (named, line) in &module.paths {
                let to = self.leads_to(path, named, REEXPORTS_MAX);
                if let Some(to) = to.filter(|to| *to != place.file) {
                    found.entry((place.file.clone(), to)).or_insert(*line);
                }
            }
        }
        found.into_iter().map(|((from, to), line)| Import { from, to, line }).collect()
    }

    /// Paths of other crates that each file names: file, path, line.
    pub fn foreign(&self) -> Vec<(String, Path, usize)> {
        let mut found = Vec::new();
        for (path, place) in &self.modules {
            let module = self.module(path).expect("it was placed");
            for (named, line) in &module.paths {
                if let Some(named) = self.spelled_out(path, named).filter(|named| named[0] != "crate") {
                    found.push((place.file.clone(), named, *line));
                }
            }
        }
        found
    }

    /// A path from the crate's root or from another crate's name. None: it starts with a type or a variable.
    fn spelled_out(&self, from: &[String], named: &[String]) -> Option<Path> {
        let root = || "crate".to_owned();
        let module = self.module(from)?;
        let first = named.first()?;
        let (base, rest) = match first.as_str() {
            "crate" => (vec![root()], &named[1..]),
            "self" => ([&[root()], from].concat(), &named[1..]),
            "super" => {
                let ups = named.iter().take_while(|segment| *segment == "super").count();
                ([&[root()], &from[..from.len().checked_sub(ups)?]].concat(), &named[ups..])
            }
            name if module.files.contains(name) || module.inline.contains_key(name) => {
                ([&[root()], from].concat(), named)
            }
            name => match module.imported.get(name) {
                // `use bytes;` and the like name themselves.
                Some(path) if path[0] != *name => (self.spelled_out(from, path)?, &named[1..]),
                _ if name.starts_with(|first: char| first.is_ascii_lowercase()) => (Vec::new(), named),
                _ => return None,
            },
        };
        Some([&base[..], rest].concat())
    }

    /// The file that declares what `named` means in the module `from`.
    fn leads_to(&self, from: &[String], named: &[String], reexports_left: usize) -> Option<String> {
        let path = self.spelled_out(from, named)?;
        let path = path.strip_prefix(&["crate".to_owned()])?;
        let depth = (0..=path.len()).rev().find(|&depth| self.modules.contains_key(&path[..depth]))?;
        let (at, rest) = path.split_at(depth);
        let module = self.module(at)?;
        let reexported = rest.first().and_then(|name| module.imported.get(name));
        if let (Some(target), Some(left)) = (reexported, reexports_left.checked_sub(1)) {
            return self.leads_to(at, &[&target[..], &rest[1..]].concat(), left);
        }
        Some(self.modules[at].file.clone())
    }

    /// Files that lead back to themselves, grouped with those they meet on the way; each group and its files in order.
    /// A file may use what the file that its folder is named after declares: the two are one module, spread out.
    pub fn circles(&self) -> BTreeSet<Vec<String>> {
        let mut after: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for import in self.imports().into_iter().filter(|import| !self.is_below(&import.from, &import.to)) {
            after.entry(import.from).or_default().insert(import.to);
        }
        let reached: BTreeMap<&String, BTreeSet<&String>> =
            after.keys().map(|file| (file, reached(file, &after))).collect();
        let returns = |from: &String, to: &String| reached.get(from).is_some_and(|all| all.contains(to));
        let circle = |file: &String| {
            after.keys().filter(|other| returns(file, other) && returns(other, file)).cloned().collect()
        };
        after.keys().filter(|file| returns(file, file)).map(circle).collect()
    }

    fn is_below(&self, file: &str, parent: &str) -> bool {
        let folder = parent.strip_suffix(".rs").and_then(|folder| file.strip_prefix(folder));
        parent == self.modules[&Path::new()].file || folder.is_some_and(|rest| rest.starts_with('/'))
    }
}

fn children(module: &Module, before: &Path, found: &mut Vec<Path>) {
    found.extend(module.files.iter().map(|name| [&before[..], std::slice::from_ref(name)].concat()));
    for (name, inner) in &module.inline {
        children(inner, &[&before[..], std::slice::from_ref(name)].concat(), found);
    }
}

fn reached<'a>(file: &String, after: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut left: Vec<&String> = after.get(file).into_iter().flatten().collect();
    while let Some(next) = left.pop() {
        if found.insert(next) {
            left.extend(after.get(next).into_iter().flatten());
        }
    }
    found
}
