//! Builds the peers with cargo, and knows where their source and their programs are.

use super::process::{Interrupt, Process};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Fat LTO of a dozen servers takes its time on two cores.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3 * 3600);

/// The workspace of the peers.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) source: PathBuf,
    pub(super) programs: PathBuf,
}

impl Peers {
    /// The folder that was named, or `benches/peers` of the checkout that the executable or the current folder is in.
    pub(super) fn find(named: Option<&Path>) -> Result<Peers> {
        let source = match named {
            Some(folder) if is_peers(folder) => folder.to_owned(),
            Some(folder) => {
                bail!("{} is not the folder of the peers: it has no Cargo.toml of theirs", folder.display())
            }
            None => {
                find_where("benches/peers", is_peers).context(
                    "the other servers are built from the folder benches/peers of Ringmill's source, and neither this \
                     program nor the current folder is in a checkout: name the folder with --peers, or compare \
                     Ringmill's own drivers with --only ringmill,ringmill-poll",
                )?
            }
        };
        let source = source.canonicalize().with_context(|| source.display().to_string())?;
        let programs = source.join("target/release");
        Ok(Peers { source, programs })
    }

    /// Runs cargo, which shows its progress itself.
    pub(super) fn build(&self, programs: &[&str], interrupt: &Interrupt) -> Result<()> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.source).args(["build", "--release", "--locked", "--target-dir", "target"]);
        for program in programs {
            command.args(["--bin", program]);
        }
        command.stdin(Stdio::null());
        let mut cargo = Process::start(command, "cargo")
            .context("the peers are built with cargo; is Rust installed (https://rustup.rs)?")?;
        let ended = cargo.wait(BUILD_TIMEOUT, interrupt);
        if ended.is_err() {
            // In order, so that it does not leave half a file that looks whole.
            cargo.signal_group(rustix::process::Signal::TERM);
        }
        if !ended?.success() {
            bail!("the peers could not be built: see cargo's messages above");
        }
        Ok(())
    }

    /// Versions of the packages that the peers are built with, from their lock file.
    pub(super) fn versions(&self) -> Result<BTreeMap<String, String>> {
        let lock = self.source.join("Cargo.lock");
        let text = std::fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
        Ok(parse_lock(&text))
    }
}

/// A file of the checkout that the executable or the current folder is in.
pub(super) fn find(path: &str) -> Option<PathBuf> {
    find_where(path, Path::is_file)
}

fn find_where(path: &str, is_it: fn(&Path) -> bool) -> Option<PathBuf> {
    let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let mut above = starts.iter().flatten().flat_map(|start| start.ancestors());
    above.find_map(|folder| Some(folder.join(path)).filter(|found| is_it(found)))
}

fn is_peers(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.contains("name = \"ringmill-peers\""))
}

/// Name and version of every package. Of several versions of one package the highest stays, as it stands last.
pub(super) fn parse_lock(text: &str) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        let value = |key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        if let Some(found) = value("name") {
            name = found;
        } else if let Some(version) = value("version") {
            versions.insert(name.to_owned(), version.to_owned());
        }
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_is_read() {
        let text = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        let versions = parse_lock(text);
        assert_eq!(versions["a"], "1.2.3");
        assert_eq!(versions["b"], "0.1.0");
    }

    #[test]
    fn the_peers_of_this_checkout_are_found_and_know_their_versions() {
        let peers = Peers::find(Some(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../peers")))).unwrap();
        let versions = peers.versions().unwrap();
        for contender in &super::super::contender::CONTENDERS {
            if let Some(package) = contender.package {
                assert!(versions.contains_key(package), "{package}");
            }
            if let Some(program) = contender.program() {
                let source = peers.source.join(format!("src/bin/{program}.rs"));
                assert!(source.is_file(), "{}", source.display());
            }
        }
    }

    #[test]
    fn another_folder_is_refused() {
        let error = Peers::find(Some(Path::new("/"))).unwrap_err().to_string();
        assert!(error.contains("not the folder of the peers"), "{error}");
    }
}
