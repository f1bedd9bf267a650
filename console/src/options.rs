//! Option values as people write them.

use std::str::FromStr;
use std::time::Duration;

/// `auto` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(pub Option<usize>);

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Workers, String> {
        match text {
            "auto" => Ok(Workers(None)),
            _ => match text.parse() {
                Ok(0) => Err("0 workers can serve nobody: give at least 1, or auto".to_owned()),
                Ok(workers) => Ok(Workers(Some(workers))),
                Err(_) => Err("expected auto or a number of threads".to_owned()),
            },
        }
    }
}

/// `0660`: octal, as chmod(1) has it.
pub fn permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected permissions in octal, from 0 to 0777, such as 0660".to_owned())
}

/// The largest size that an option takes, in bytes: no machine has more, and sums of it fit everywhere.
const SIZE_MAX: u64 = 1 << 50;

/// `64KiB`, `1GiB`, `500kB`, or plain bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let size = text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|size| *size <= SIZE_MAX)
        .ok_or_else(|| "expected a size such as 65536, 64KiB or 1GiB, at most 1PiB".to_owned())
}

/// Bytes a second, written as a size.
pub fn byte_rate(text: &str) -> Result<u32, String> {
    let bytes = size(text).ok().and_then(|bytes| u32::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("expected bytes a second such as 256 or 64KiB, at most {} (4GiB)", u32::MAX))
}

/// Datagrams a second.
pub fn datagram_rate(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("expected datagrams a second, at most {}, or 0 for no limit", u32::MAX))
}

/// Requests a second, of which a fraction is enough.
pub fn request_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| {
        "expected requests a second such as 20000, at least 0.001 and at most 1000000000".to_owned()
    })
}

/// The longest time that an option takes, ten years: sums of it fit into an `Instant`, a `Tick` (584 years) and an i32 of
/// seconds.
const DURATION_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);
/// The shortest run: in less nothing can be measured.
const RUN_MIN: Duration = Duration::from_millis(1);
/// The longest time that TCP_DEFER_ACCEPT can mean, in whole hours: the kernel counts up to 255 repeated SYN-ACKs, whose
/// distance grows to two minutes (tcp(7); secs_to_retrans in net/ipv4/tcp.c).
const DEFER_ACCEPT_MAX: Duration = Duration::from_secs(8 * 3600);

/// `10s`, `500ms`, `2m`, or plain seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<f64>() {
        Ok(secs) => Duration::try_from_secs_f64(secs).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| *time <= DURATION_MAX)
        .ok_or_else(|| "expected a duration such as 10, 10s, 500ms or 2m, at most 3650d".to_owned())
}

/// As `duration`, but zero would never let anything happen.
pub fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a timeout of zero would close every connection at once".to_owned()),
        timeout => Ok(timeout),
    }
}

/// As `duration`, but long enough to measure something.
pub fn run_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < RUN_MIN => Err("a run lasts at least 1ms: in less nothing can be measured".to_owned()),
        time => Ok(time),
    }
}

/// As `duration`, but what the kernel takes for TCP_DEFER_ACCEPT.
pub fn defer_accept(text: &str) -> Result<Duration, String> {
    let time = duration(text).ok().filter(|time| {
        time.subsec_nanos() == 0 && (Duration::from_secs(1)..=DEFER_ACCEPT_MAX).contains(time)
    });
    time.ok_or_else(|| "expected whole seconds, at least one and at most 8h, such as 5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_is_deferred_for_whole_seconds() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(defer_accept(text).ok(), expected.map(Duration::from_secs), "{text}");
        };
        check("5s", Some(5));
        check("1", Some(1));
        check("2m", Some(120));
        check("8h", Some(28_800));
        for text in ["0s", "500ms", "2.9s", "28801", "soon", "-1"] {
            check(text, None);
        }
    }

    #[test]
    fn permissions_are_octal() {
        let check = |text, expected| assert_eq!(permissions(text).ok(), expected, "{text}");
        check("0660", Some(0o660));
        check("660", Some(0o660));
        check("0777", Some(0o777));
        for text in ["1777", "4755", "0o660", "rw-rw----", "8", "-1", ""] {
            check(text, None);
        }
    }

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(size(text).ok(), expected, "{text}");
        check("65536", Some(65_536));
        check("64KiB", Some(65_536));
        check("1GiB", Some(1 << 30));
        check("1kB", Some(1000));
        check("0", Some(0));
        check("", None);
        check("-1", None);
        check("lots", None);
        check("1PiB", Some(1 << 50));
        check("1125899906842625", None);
        check("16EiB", None);
    }

    #[test]
    fn durations() {
        let check = |text, expected| assert_eq!(duration(text).ok(), expected, "{text}");
        check("10", Some(Duration::from_secs(10)));
        check("0.5", Some(Duration::from_millis(500)));
        check("500ms", Some(Duration::from_millis(500)));
        check("2m", Some(Duration::from_secs(120)));
        check("-1", None);
        check("soon", None);
        check("NaN", None);
        check("3650d", Some(DURATION_MAX));
        check("315360000.0000001", None);
        check("18446744073709551615s", None);
        assert!(timeout("0").is_err());
        // What rounds to nothing is nothing.
        assert!(timeout("1e-300").is_err());
        assert!(run_time("999us").is_err());
        assert_eq!(run_time("1ms").ok(), Some(RUN_MIN));
    }

    #[test]
    fn rates() {
        let check = |text, expected| assert_eq!(request_rate(text).ok(), expected, "{text}");
        check("20000", Some(20_000.0));
        check("0.001", Some(0.001));
        check("1e9", Some(1e9));
        for text in ["0", "0.0009", "1000000001", "1e300", "NaN", "inf", "-1", "fast"] {
            check(text, None);
        }
        assert_eq!(byte_rate("64KiB").ok(), Some(65_536));
        assert!(byte_rate("4GiB").is_err());
        assert_eq!(datagram_rate("4294967295").ok(), Some(u32::MAX));
        assert!(datagram_rate("4294967296").is_err());
    }

    #[test]
    fn workers() {
        assert_eq!("auto".parse(), Ok(Workers(None)));
        assert_eq!("4".parse(), Ok(Workers(Some(4))));
        assert!("0".parse::<Workers>().is_err());
        assert!("many".parse::<Workers>().is_err());
    }
}
