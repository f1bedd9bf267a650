//! Lists of networks, and files of them.

use ringmill::{Network, Networks};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Mistakes of one file that are told one by one.
const TOLD_MAX: usize = 20;

/// A network of a list, or a file of some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Network(Network),
    File(PathBuf),
}

impl FromStr for Listed {
    type Err = String;

    fn from_str(text: &str) -> Result<Listed, String> {
        if text.starts_with(['/', '.']) {
            return Ok(Listed::File(PathBuf::from(text)));
        }
        let network = text.parse::<Network>();
        let network = network.map_err(|error| format!("{error}; a file of them begins with / or ./"))?;
        match network.ip() {
            Some(_) => Ok(Listed::Network(network)),
            None => Err("peers of a Unix socket have no address that a list could have".to_owned()),
        }
    }
}

/// The list that all of these make, or everything that is wrong with their files. `None` where there is none.
pub(crate) fn list(entries: &[Listed]) -> Result<Option<Arc<Networks>>, Vec<String>> {
    let (mut networks, mut problems) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Listed::Network(network) => networks.push(*network),
            Listed::File(path) => match read(path) {
                Ok(mut more) => networks.append(&mut more),
                Err(mut more) => problems.append(&mut more),
            },
        }
    }
    match (problems.is_empty(), entries.is_empty()) {
        (false, _) => Err(problems),
        (true, true) => Ok(None),
        (true, false) => Ok(Some(Arc::new(Networks::new(networks)))),
    }
}

/// The networks of a file.
fn read(path: &Path) -> Result<Vec<Network>, Vec<String>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("cannot read {file}: {error}")])?;
    Networks::read(&text).map_err(|bad| {
        let told = bad.iter().take(TOLD_MAX).map(|bad| format!("{file}:{}: {}", bad.line, bad.problem));
        let mut told: Vec<String> = told.collect();
        if bad.len() > TOLD_MAX {
            told.push(format!("{file}: and {} lines more are no networks", bad.len() - TOLD_MAX));
        }
        told
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_networks_and_files() {
        let check = |text: &str, expected: &str| {
            let read = text.parse::<Listed>().map_or_else(|error| error, |listed| format!("{listed:?}"));
            assert!(read.contains(expected), "{text}: {read}");
        };
        check("10.0.0.0/8", "Network(");
        check("::1", "Network(");
        check("/etc/deny.txt", "File(\"/etc/deny.txt\")");
        check("./deny.txt", "File(");
        check("../deny.txt", "File(");
        check("deny.txt", "a file of them begins with / or ./");
        check("10.0.0.1/8", "has bits behind its prefix");
        check("unix", "have no address");

        assert_eq!(list(&[]), Ok(None));
        let path = std::env::temp_dir().join(format!("ringmill-list-{}", std::process::id()));
        std::fs::write(&path, "10.0.0.0/8\n# nothing\n").unwrap();
        let file = Listed::File(path.clone());
        let both = list(&[file.clone(), "192.0.2.1".parse().unwrap()]).unwrap().unwrap();
        assert!(both.contains([10, 1, 2, 3].into()) && both.contains([192, 0, 2, 1].into()));
        assert!(!both.contains([192, 0, 2, 2].into()));
        std::fs::write(&path, "10.0.0.0/8\n".to_owned() + &"x\n".repeat(25)).unwrap();
        let bad = list(&[file.clone(), "./nowhere/at/all".parse().unwrap()]).unwrap_err();
        assert!(
            bad[0].ends_with(
                ":2: \"x\": expected a network such as 10.0.0.0/8 or 2001:db8::/32, an address, or unix"
            ),
            "{}",
            bad[0]
        );
        assert!(bad[19].contains(":21:") && bad[20].contains("and 5 lines more"), "{bad:?}");
        assert!(bad[21].contains("cannot read ./nowhere/at/all"), "{bad:?}");
        // An empty file is a list of nobody, and not no list.
        std::fs::write(&path, "").unwrap();
        assert_eq!(list(&[file]), Ok(Some(Arc::default())));
        std::fs::remove_file(&path).unwrap();
    }
}
