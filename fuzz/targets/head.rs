//! Request heads: whatever comes, no panic; and the verdict on a prefix never contradicts the one on the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmill_protocols::http::message::Slots;
use ringmill_protocols::http::one::head::{HeadLimits, Outcome, parse_head, verdict_due};

/// What is left of an outcome without what it borrows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Complete(usize),
    Partial,
    Malformed(u16, &'static str),
}

fn verdict(input: &[u8], limits: &HeadLimits) -> Verdict {
    match parse_head(input, &mut Slots::new(), limits) {
        Outcome::Complete { head, len } => {
            assert!(input[..len].ends_with(b"\r\n\r\n") && len <= limits.head_bytes_max);
            assert!(head.path.as_str().is_empty() || head.target.as_str().contains(head.path.as_str()));
            for field in head.fields.iter() {
                assert!(
                    !field.name.is_empty()
                        && !field.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
                );
            }
            Verdict::Complete(len)
        }
        Outcome::Partial => Verdict::Partial,
        Outcome::Malformed(reject) => Verdict::Malformed(reject.status(), reject.reason()),
    }
}

fuzz_target!(|data: &[u8]| {
    // The first byte picks the limits, so that small inputs reach them.
    let Some((&choice, input)) = data.split_first() else { return };
    let limits = match choice % 4 {
        0 => HeadLimits { request_line_bytes_max: 16, head_bytes_max: 64, fields_max: 2 },
        1 => HeadLimits { request_line_bytes_max: 64, head_bytes_max: 128, fields_max: 4 },
        _ => HeadLimits::default(),
    };
    let whole = verdict(input, &limits);
    let mut before = Verdict::Partial;
    for cut in 0..input.len().min(400) {
        let part = verdict(&input[..cut], &limits);
        match (part, whole) {
            (Verdict::Partial, _) => {
                assert_eq!(before, Verdict::Partial, "a verdict was taken back at {cut}")
            }
            (part, whole) => assert_eq!(part, whole, "the verdict on {cut} bytes is not the one on all"),
        }
        if part != Verdict::Partial && before == Verdict::Partial {
            assert!(verdict_due(&input[..cut], cut - 1, &limits) || matches!(part, Verdict::Malformed(..)));
        }
        before = part;
    }
});
