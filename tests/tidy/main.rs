//! What the sources keep to, and no compiler checks: no circles of imports, layers, where a clock is read, sizes of files, names.
//!
//! The rules are the tables below. An exception that nothing needs any more fails as well, so the tables only get shorter.
//! `facts.rs` reads a file, `tree.rs` makes a crate of files.

mod facts;
mod tree;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use tree::{Files, Tree};

/// The roots of the crates whose circles, layers and sizes are looked at.
const ROOTS: &[&str] = &[
    "engine/src/lib.rs",
    "protocols/src/lib.rs",
    "console/src/lib.rs",
    "benches/compare/src/lib.rs",
    "tuning/doctor/src/lib.rs",
    "src/lib.rs",
    "src/main.rs",
];

/// All folders with sources of ours.
const FOLDERS: &[&str] =
    &["engine", "protocols", "console", "tuning", "src", "tests", "examples", "benches", "fuzz"];

/// Lines of a file without its tests.
const LINES_MAX: usize = 500;

/// Files that are longer, with the lines they may have: they may shrink.
const LONG: &[(&str, usize)] = &[("engine/src/driver/uring.rs", 718)];

/// What files must not name.
struct Layer {
    /// Files, or folders with their slash; so are `except` and what of the own crate is forbidden.
    of: &'static [&'static str],
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

/// ARCHITECTURE.md, Layers. That the engine knows no protocol is in its manifest.
const LAYERS: &[Layer] = &[
    Layer {
        of: &["engine/src/session/"],
        except: &[],
        forbidden: &[
            "std::net",
            "engine/src/driver.rs",
            "engine/src/driver/",
            "engine/src/worker.rs",
            "engine/src/worker/",
        ],
        why: "the rules of a session are stepped through in tests, without a socket",
    },
    Layer {
        of: &[
            "engine/src/session/",
            "engine/src/seam/",
            "engine/src/conn.rs",
            "engine/src/datagram.rs",
            "engine/src/event.rs",
            "engine/src/output.rs",
            "engine/src/time.rs",
            "engine/src/timer.rs",
            "engine/src/token.rs",
        ],
        except: &[],
        forbidden: &[
            "std::os",
            "socket2",
            "rustix",
            "libc",
            "nix",
            "mio",
            "io_uring",
            "engine/src/sys.rs",
            "engine/src/sys/",
        ],
        why: "pure files import no socket",
    },
    Layer {
        of: &["engine/src/"],
        except: &[
            "engine/src/sys.rs",
            "engine/src/sys/",
            "engine/src/driver/uring.rs",
            "engine/src/driver/uring/",
        ],
        forbidden: &["libc", "rustix", "nix", "io_uring"],
        why: "system calls are in sys, rings in the ring driver",
    },
    Layer {
        of: &["engine/src/"],
        except: &["engine/src/driver/poll.rs"],
        forbidden: &["mio"],
        why: "epoll is in poll.rs",
    },
    Layer {
        of: &["engine/src/"],
        except: &["engine/src/host.rs", "engine/src/worker/hosted.rs", "engine/src/sys/readiness.rs"],
        forbidden: &["tokio"],
        why: "who waits is the host's business: everything else runs without it",
    },
    Layer {
        of: &["protocols/src/"],
        except: &[],
        forbidden: &[
            "ringmill_engine::driver",
            "ringmill_engine::event",
            "ringmill_engine::hooks",
            "ringmill_engine::output",
            "ringmill_engine::pool",
            "ringmill_engine::timer",
            "ringmill_engine::token",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::os::fd",
            "std::os::unix::net",
        ],
        why: "a protocol stands on a duplex: it names no driver and no socket",
    },
    Layer {
        of: &["engine/src/", "protocols/src/"],
        except: &[
            "engine/src/sys.rs",
            "engine/src/listen/patience.rs",
            // hyper's timer speaks in instants, which cannot be made of a number.
            "protocols/src/adapt/timer.rs",
            "protocols/src/layer/tls/clock.rs",
            // A certificate that is made at start begins then.
            "protocols/src/layer/tls/selfsigned.rs",
        ],
        forbidden: CLOCKS,
        why: "time is an argument: the driver reads the clock, once a turn",
    },
    Layer {
        of: &["src/", "console/src/", "tuning/doctor/src/"],
        except: &["tuning/doctor/src/measure.rs", "src/cli/load.rs", "src/cli/load/"],
        forbidden: CLOCKS,
        why: "only what measures reads a clock",
    },
];

const CLOCKS: &[&str] = &["std::time::Instant", "std::time::SystemTime", "std::thread::sleep"];

#[test]
fn no_file_imports_itself_around_a_corner() {
    let trees = trees();
    let circles: BTreeSet<String> = trees.iter().flat_map(Tree::circles).flatten().collect();
    let imports = trees.iter().flat_map(Tree::imports);
    let parts = imports.filter(|import| circles.contains(&import.from) && circles.contains(&import.to));
    let parts: Vec<String> = parts.map(|import| import.to_string()).collect();
    assert!(circles.is_empty(), "these files import each other in circles:\n{}", parts.join("\n"));
}

#[test]
fn layers_hold() {
    let named = named(&trees());
    let mut broken = Vec::new();
    for layer in LAYERS {
        for place in layer.of {
            assert!(named.iter().any(|(file, ..)| is_within(file, place)), "there is no {place}");
        }
        let inside = |file: &str| layer.of.iter().any(|place| is_within(file, place));
        let mut needless: BTreeSet<&str> = layer.except.iter().copied().collect();
        for (file, path, line) in named.iter().filter(|(file, ..)| inside(file)) {
            let Some(forbidden) = layer.forbidden.iter().find(|front| is_front(path, front)) else {
                continue;
            };
            match layer.except.iter().find(|except| is_within(file, except)) {
                Some(except) => drop(needless.remove(except)),
                None => broken.push(format!("{file}:{line} names {path} ({forbidden}): {}", layer.why)),
            }
        }
        broken.extend(
            needless.iter().map(|except| format!("{except} needs no exception any more: {}", layer.why)),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let manifest = std::fs::read_to_string(repository().join("engine/Cargo.toml")).unwrap();
    assert!(!manifest.contains("ringmill-protocols"), "the engine knows no protocol, not even in its tests");
}

#[test]
fn files_have_one_job_and_a_size_that_shows_it() {
    let trees = trees();
    let files = trees.iter().flat_map(Tree::files);
    let sizes: Vec<(&str, usize)> = files.map(|(file, facts)| (file, facts.lines_without_tests)).collect();
    let mut wrong = Vec::new();
    for (file, lines) in &sizes {
        match LONG.iter().find(|(long, _)| long == file) {
            None if *lines > LINES_MAX => {
                wrong
                    .push(format!("{file} has {lines} lines without tests, over {LINES_MAX}: a second job?"));
            }
            Some((_, max)) if lines > max => wrong.push(format!("{file} grew from {max} to {lines} lines")),
            Some(_) if *lines <= LINES_MAX => {
                wrong.push(format!("{file} is short enough: take it out of LONG"));
            }
            _ => {}
        }
    }
    let gone = LONG.iter().filter(|(long, _)| !sizes.iter().any(|(file, _)| file == long));
    wrong.extend(gone.map(|(long, _)| format!("{long} is gone: take it out of LONG")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_say_what_a_thing_is() {
    let mut wrong = Vec::new();
    for (file, facts) in &*SOURCES {
        for (kind, name, line) in facts.module.all_declared() {
            if let Some(problem) = problem_with(kind, name) {
                wrong.push(format!("{file}:{line}: {kind} {name}: {problem}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn problem_with(kind: &str, name: &str) -> Option<&'static str> {
    match kind {
        "fn" if name.starts_with("get_") => Some("what it returns is name enough, without get_"),
        "mod" if ["util", "utils"].contains(&name) => Some("name what is in it"),
        "struct" | "enum" | "trait" | "type" if name.contains("Manager") => Some("say what it does"),
        _ => None,
    }
}

/// Every path that a source names, spelled out; of the own crate the file it leads to. With file and line.
fn named(trees: &[Tree<'_>]) -> Vec<(String, String, usize)> {
    let mut found = Vec::new();
    for tree in trees {
        found.extend(tree.foreign().into_iter().map(|(file, path, line)| (file, path.join("::"), line)));
        found.extend(tree.imports().into_iter().map(|import| (import.from, import.to, import.line)));
    }
    found
}

fn is_within(file: &str, place: &str) -> bool {
    file == place || place.ends_with('/') && file.starts_with(place)
}

/// Whether `path` is `front` or goes on from it: segments of a path, or a folder.
fn is_front(path: &str, front: &str) -> bool {
    path.strip_prefix(front)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || front.ends_with('/'))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources, read once for all tests.
static SOURCES: LazyLock<Files> = LazyLock::new(|| {
    let mut files = Files::new();
    for folder in FOLDERS {
        add(&repository().join(folder), repository(), &mut files);
    }
    files
});

fn trees() -> Vec<Tree<'static>> {
    ROOTS.iter().map(|root| Tree::of(root, &SOURCES)).collect()
}

fn add(folder: &Path, root: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().expect("names of sources are text").to_owned();
        if path.is_dir() && !name.ends_with("/target") {
            add(&path, root, files);
        } else if name.ends_with(".rs") {
            files.insert(name, facts::read(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn paths_are_read() {
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> =
            facts::read(text).module.paths.iter().map(|(path, _)| path.join("::")).collect();
        assert_eq!(found, expected, "in {text:?}");
    }
    check("use crate::a::B;", &["crate::a::B"]);
    check("pub(crate) use a::{b::C, d::{self, E as F}, g::*};", &["a::b::C", "a::d", "a::d::E", "a::g"]);
    check("use ::std::net;", &["std::net"]);
    check(
        "fn f() -> crate::a::B { super::c(x.d(self::e::<f::G>())) }",
        &["crate::a::B", "super::c", "self::e", "f::G"],
    );
    check("const X: *const libc::c_int = 0; static Y: &'static a::B = 0;", &["libc::c_int", "a::B"]);
    check("// a::b\n/* c::d */ fn f() { \"e::f\" }", &[]);
    check("macro_rules! m { ($x:expr) => { $crate::a::b($x) } }", &["crate::a::b"]);
    check("#[cfg(test)] use a::{b, c}; use d::e;", &["d::e"]);
    check("#[cfg(test)] #[allow(x)] mod tests { use a::b; } use d::e;", &["d::e"]);
    check("#[cfg(any(test, feature = \"sim\"))] use a::b;", &["a::b"]);
}

#[test]
fn lines_of_tests_do_not_count() {
    fn check(text: &str, expected: usize) {
        assert_eq!(facts::read(text).lines_without_tests, expected, "in {text:?}");
    }
    check("fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n", 2);
    check("#[cfg(test)]\nmod tests;\nfn f() {}\n", 1);
    check("fn f() {}\n", 1);
}

#[test]
fn circles_are_found() {
    fn check(files: &[(&str, &str)], expected: &[&[&str]]) {
        let read: Files =
            files.iter().map(|(file, text)| (format!("{file}.rs"), facts::read(text))).collect();
        let found = Tree::of("x/lib.rs", &read).circles();
        let expected: BTreeSet<Vec<String>> =
            expected.iter().map(|circle| circle.iter().map(|file| format!("{file}.rs")).collect()).collect();
        assert_eq!(found, expected, "in {files:#?}");
    }
    let two = ("x/lib", "mod a; mod b;");
    check(&[two, ("x/a", "use crate::b::B; struct A;"), ("x/b", "struct B;")], &[]);
    check(&[two, ("x/a", "use super::b::B;"), ("x/b", "fn f() -> crate::a::A {}")], &[&["x/a", "x/b"]]);
    check(&[two, ("x/a", "use crate::b; fn f(b: b::B) {}"), ("x/b", "use crate::a;")], &[&["x/a", "x/b"]]);
    // Through the crate's first page, under another name.
    let page = ("x/lib", "mod a; mod b; pub use b::B as C;");
    check(&[page, ("x/a", "use crate::C;"), ("x/b", "use crate::a::A;")], &[&["x/a", "x/b"]]);
    // In tests anything may meet.
    check(&[two, ("x/a", "use crate::b::B;"), ("x/b", "#[cfg(test)] mod tests { use crate::a::A; }")], &[]);
    // A module in two files, and one in braces.
    check(&[("x/lib", "mod a;"), ("x/a", "mod b; use b::B;"), ("x/a/b", "use super::A;")], &[]);
    check(&[two, ("x/a", "mod c { use crate::b::B; }"), ("x/b", "use crate::a::c::C;")], &[&["x/a", "x/b"]]);
    // Three in a circle are one circle.
    let three = ("x/lib", "mod a; mod b; mod c;");
    let around =
        [three, ("x/a", "use crate::b::B;"), ("x/b", "use crate::c::C;"), ("x/c", "use crate::a::A;")];
    check(&around, &[&["x/a", "x/b", "x/c"]]);
}

#[test]
fn names_are_judged() {
    fn check(text: &str, expected: &[&str]) {
        let facts = facts::read(text);
        let wrong = facts.module.all_declared().filter(|(kind, name, _)| problem_with(kind, name).is_some());
        assert_eq!(wrong.map(|(_, name, _)| name.as_str()).collect::<Vec<_>>(), expected, "in {text:?}");
    }
    check("mod a { fn get_x() {} } fn target() {} mod utils;", &["utils", "get_x"]);
    check("pub struct PoolManager; impl A { pub fn get(&self) { self.get_x() } }", &["PoolManager"]);
}
