//! The files that explain why Ringmill and another server differ: `tests/data/differential/*.rules`.
//!
//! The first rule that fits explains a difference. One that nothing explains fails the test, and so does a rule that
//! explains nothing: it is stale, or hidden behind another.

use super::outcome::{Did, Difference, View};
use std::collections::BTreeMap;
use std::path::Path;

struct Rule {
    name: String,
    line: usize,
    ringmill: Option<Wanted>,
    peer: Option<Wanted>,
    /// Part of what was sent.
    input: String,
    has_section: bool,
    has_reason: bool,
}

/// What a rule wants of one side.
struct Wanted {
    did: Did,
    /// Part of the detail.
    detail: String,
}

/// Differences, and how often each was explained by which rule.
pub struct Judge {
    file: String,
    rules: Vec<Rule>,
    applied: Vec<usize>,
    unexplained: BTreeMap<String, (usize, String)>,
    agreed: usize,
}

impl Judge {
    pub fn new(path: &Path) -> Judge {
        let text = std::fs::read_to_string(path).expect("a file of rules");
        Judge::of(
            &path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            &text,
        )
    }

    /// From a file's name and text.
    pub fn of(file: &str, text: &str) -> Judge {
        let file = file.to_owned();
        let rules = parse(text).unwrap_or_else(|(line, what)| panic!("{file}:{line}: {what}"));
        let applied = vec![0; rules.len()];
        Judge { file, rules, applied, unexplained: BTreeMap::new(), agreed: 0 }
    }

    /// Takes note of one conversation.
    pub fn see(&mut self, seed: u64, bytes: &[u8], difference: Option<Difference>) {
        let Some(difference) = difference else {
            self.agreed += 1;
            return;
        };
        match self.rules.iter().position(|rule| rule.fits(bytes, &difference)) {
            Some(rule) => self.applied[rule] += 1,
            None => {
                let Difference { ringmill, peer } = &difference;
                // What was seen differs each time: one example stands for all.
                let key = |view: &View| match view.did {
                    Did::Accepts => "Accepts".into(),
                    _ => format!("{:?} {}", view.did, view.detail),
                };
                let example = format!("seed {seed}: {}\n  {ringmill:?}\n  {peer:?}", bytes.escape_ascii());
                let entry = self.unexplained.entry(format!("{} / {}", key(ringmill), key(peer)));
                entry.or_insert((0, example)).0 += 1;
            }
        }
    }

    /// Fails on what no rule explains and, in the fixed run, on rules that explain nothing; else says what was seen.
    pub fn end(self, is_fixed_run: bool) -> String {
        let explained: usize = self.applied.iter().sum();
        let unexplained: Vec<String> = self
            .unexplained
            .iter()
            .map(|(key, (count, example))| format!("{count} x {key}\n  {example}"))
            .collect();
        let stale: Vec<String> = self
            .rules
            .iter()
            .zip(&self.applied)
            .filter(|(_, applied)| is_fixed_run && **applied == 0)
            .map(|(rule, _)| format!("{}:{}: `{}` explains nothing", self.file, rule.line, rule.name))
            .collect();
        assert!(
            unexplained.is_empty() && stale.is_empty(),
            "{} differences are not explained by {}:\n{}\n{}",
            unexplained.len(),
            self.file,
            unexplained.join("\n"),
            stale.join("\n")
        );
        format!("{} agreed, {explained} differ as {} of {} explain", self.agreed, self.rules.len(), self.file)
    }
}

impl Rule {
    fn fits(&self, sent: &[u8], difference: &Difference) -> bool {
        let input = self.input.as_bytes();
        let fits = |wanted: &Option<Wanted>, view: &View| {
            wanted
                .as_ref()
                .is_some_and(|wanted| wanted.did == view.did && view.detail.contains(&wanted.detail))
        };
        let is_in = input.is_empty() || sent.windows(input.len()).any(|window| window == input);
        is_in && fits(&self.ringmill, &difference.ringmill) && fits(&self.peer, &difference.peer)
    }

    fn is_whole(&self) -> bool {
        self.ringmill.is_some() && self.peer.is_some() && self.has_section && self.has_reason
    }
}

/// Rules, or a line and what is wrong there.
fn parse(text: &str) -> Result<Vec<Rule>, (usize, String)> {
    let mut rules: Vec<Rule> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "rule" {
            check_last(&rules)?;
            if rules.iter().any(|rule| rule.name == rest) || rest.is_empty() {
                return Err((line_number, format!("`{rest}` is taken, or no name")));
            }
            let (name, line) = (rest.to_owned(), line_number);
            rules.push(Rule {
                name,
                line,
                ringmill: None,
                peer: None,
                input: String::new(),
                has_section: false,
                has_reason: false,
            });
            continue;
        }
        let rule = rules.last_mut().ok_or((line_number, "expected `rule NAME`".to_owned()))?;
        match word {
            "ringmill" => {
                rule.ringmill = Some(wanted(rest).ok_or((line_number, format!("not an outcome: {rest}")))?)
            }
            "peer" => rule.peer = Some(wanted(rest).ok_or((line_number, format!("not an outcome: {rest}")))?),
            "input" => rule.input = rest.to_owned(),
            "rfc" => rule.has_section = true,
            "why" => rule.has_reason = true,
            _ => {
                return Err((
                    line_number,
                    format!("expected ringmill, peer, input, rfc or why, found `{word}`"),
                ));
            }
        }
    }
    check_last(&rules)?;
    Ok(rules)
}

fn check_last(rules: &[Rule]) -> Result<(), (usize, String)> {
    match rules.last() {
        Some(rule) if !rule.is_whole() => {
            Err((rule.line, format!("`{}` lacks one of ringmill, peer, rfc, why", rule.name)))
        }
        _ => Ok(()),
    }
}

/// `accepts|rejects|silent [PART OF THE DETAIL]`
fn wanted(text: &str) -> Option<Wanted> {
    let (did, detail) = text.split_once(' ').unwrap_or((text, ""));
    let did = match did {
        "accepts" => Did::Accepts,
        "rejects" => Did::Rejects,
        "silent" => Did::Silent,
        _ => return None,
    };
    Some(Wanted { did, detail: detail.to_owned() })
}
