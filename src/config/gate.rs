//! Who may come in, of the file and of options: networks, and files of them, become lists; all that is wrong is told at once.

use super::problem::Problem;
use super::schema;
use ringmill::{GateRules, Network, Networks};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use toml::Spanned;

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

/// The rules of a listener.
pub(super) fn rules(asked: &schema::Listen, problems: &mut Vec<Problem>) -> GateRules {
    let mut listed = |asked: &Option<Spanned<schema::Lists>>| {
        let asked = asked.as_ref()?;
        let entries: Vec<Listed> = asked.get_ref().0.iter().map(|entry| entry.value.clone()).collect();
        list(&entries).unwrap_or_else(|bad| {
            problems.extend(bad.into_iter().map(|problem| Problem::at(asked.span(), problem, "")));
            None
        })
    };
    let (deny, allow) = (listed(&asked.deny), listed(&asked.allow));
    let rules = GateRules {
        deny,
        allow,
        connections_per_ip: asked.connections_per_ip,
        connections_per_prefix: asked.connections_per_prefix,
        new_connections_per_ip: asked.new_connections_per_ip.as_ref().map(|rate| rate.value),
    };
    let span = asked.address.span();
    for (key, limit) in [
        ("connections_per_ip", rules.connections_per_ip),
        ("connections_per_prefix", rules.connections_per_prefix),
    ] {
        if limit == Some(0) {
            let remedy = "at least 1; leave it out for no limit";
            problems.push(Problem::at(span.clone(), format!("`{key}` is 0: nobody could come in"), remedy));
        }
    }
    let has_addresses = asked.address.get_ref().value.ip().is_some() || !asked.proxy_protocol.is_empty();
    if !has_addresses && !rules.is_open() {
        let what = "peers of a Unix socket have no address, so nothing can be asked of them";
        problems.push(Problem::at(
            span,
            what,
            "leave lists and limits out; who may connect is a matter of its file",
        ));
    }
    rules
}

/// In a few words, for one client: whether it may come in, and what it may have then.
pub(crate) struct Said<'a>(pub(crate) &'a GateRules, pub(crate) std::net::IpAddr);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Said(rules, ip) = self;
        if let Some(why) = rules.refuses(*ip) {
            return write!(f, "connections of {ip} are closed: {why}");
        }
        write!(f, "{ip} may come in")?;
        if let Some(limit) = rules.connections_per_ip {
            write!(f, "; {limit} connection(s) of an address")?;
        }
        if let Some(limit) = rules.connections_per_prefix {
            write!(f, "; {limit} of the network around it")?;
        }
        if let Some(rate) = rules.new_connections_per_ip {
            write!(f, "; new ones of an address {rate}")?;
        }
        Ok(())
    }
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
