//! What a server made of a conversation, and where two of them differ.

/// Every answer to a conversation but 100 (Continue).
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub answers: Vec<Answer>,
    /// Why it ended, as far as the server tells.
    pub reason: String,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The field `x-seen`, with which both handlers say what request they saw: there in every answer that is not a
    /// refusal.
    pub seen: Option<String>,
    pub body: String,
}

/// Where two servers part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub ringmill: View,
    pub peer: View,
}

/// What one of them did there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    pub did: Did,
    /// What it saw, or why it refused.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Did {
    Accepts,
    Rejects,
    /// No further answer: it had closed, or waits for the rest of what it takes for a request.
    Silent,
}

/// The first answer in which two outcomes differ. Statuses of refusals may.
pub fn difference(ringmill: &Outcome, peer: &Outcome) -> Option<Difference> {
    for at in 0.. {
        let (ours, theirs) = (ringmill.view(at), peer.view(at));
        match (ours.did, theirs.did) {
            (Did::Silent, Did::Silent) => return None,
            (Did::Accepts, Did::Accepts) if ours.detail == theirs.detail => {}
            // After a refusal there may be no more: a connection that goes on is a difference.
            (Did::Rejects, Did::Rejects) => {}
            _ => return Some(Difference { ringmill: ours, peer: theirs }),
        }
    }
    None
}

impl Outcome {
    fn view(&self, at: usize) -> View {
        match self.answers.get(at) {
            None => View { did: Did::Silent, detail: self.reason.clone() },
            Some(Answer { seen: Some(seen), .. }) => View { did: Did::Accepts, detail: seen.clone() },
            Some(Answer { status, body, .. }) => {
                // Ringmill repeats the status first; other servers say little there.
                let said = body.trim_end().split_once(": ").map(|(_, said)| said);
                let reason = said.unwrap_or(&self.reason).lines().next().unwrap_or_default();
                View { did: Did::Rejects, detail: format!("{status} {reason}") }
            }
        }
    }

    /// Reads what a server sent; its connection has ended, or will send no more.
    pub fn read(bytes: &[u8], reason: String) -> Outcome {
        let mut answers = Vec::new();
        let mut rest = bytes;
        while let Some(at) = find(rest, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&rest[..at]).into_owned();
            rest = &rest[at + 4..];
            let status: u16 = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
            assert!(status >= 100, "not a reply: {head}");
            if status < 200 {
                continue;
            }
            let value = |name: &str| {
                let mut fields = head.lines().filter_map(|line| line.split_once(':'));
                fields
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.trim().to_owned())
            };
            let seen = value("x-seen");
            let is_head = seen.as_ref().is_some_and(|seen| seen.starts_with("HEAD "));
            let length = match value("content-length") {
                Some(_) if is_head => 0,
                Some(length) => length.parse().expect("a length"),
                None => 0,
            };
            // The refusal of a HEAD is the last reply, and has no body.
            let body = &rest[..length.min(rest.len())];
            rest = &rest[body.len()..];
            answers.push(Answer { status, seen, body: String::from_utf8_lossy(body).into_owned() });
        }
        let reason = if rest.is_empty() { reason } else { format!("an answer without a head; {reason}") };
        Outcome { answers, reason }
    }
}

/// What a handler says of a request that it saw.
pub fn seen(method: &str, path_and_query: &str, body: &[u8]) -> String {
    let hash = body.iter().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(*byte));
    format!("{method} {path_and_query} {} {hash:x}", body.len())
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
