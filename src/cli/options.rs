//! Option values as people write them.

use std::str::FromStr;
use std::time::Duration;

/// `auto` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workers(pub(crate) Option<usize>);

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
pub(crate) fn permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected permissions in octal, from 0 to 0777, such as 0660".to_owned())
}

/// `64KiB`, `1GiB`, `500kB`, or plain bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "expected a size such as 65536, 64KiB or 1GiB".to_owned())
}

/// Bytes a second, written as a size.
pub(crate) fn rate(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    u32::try_from(bytes).map_err(|_| format!("at most {} bytes a second (4GiB)", u32::MAX))
}

/// `10s`, `500ms`, `2m`, or plain seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(secs) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(secs)
            .map_err(|_| "expected a duration that is not negative".to_owned());
    }
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 10, 10s, 500ms or 2m".to_owned())
}

/// As `duration`, but zero would never let anything happen.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a timeout of zero would close every connection at once".to_owned()),
        timeout => Ok(timeout),
    }
}

/// As `duration`, but what the kernel takes where it counts seconds.
pub(crate) fn whole_seconds(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let fits = time.subsec_nanos() == 0 && (1..=i32::MAX as u64).contains(&time.as_secs());
    fits.then_some(time).ok_or_else(|| "expected whole seconds, at least one, such as 5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_whole() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(whole_seconds(text).ok(), expected.map(Duration::from_secs), "{text}");
        };
        check("5s", Some(5));
        check("1", Some(1));
        check("2m", Some(120));
        check("2147483647", Some(2_147_483_647));
        for text in ["0s", "500ms", "2.9s", "2147483648", "soon", "-1"] {
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
        assert!(timeout("0").is_err());
    }

    #[test]
    fn workers() {
        assert_eq!("auto".parse(), Ok(Workers(None)));
        assert_eq!("4".parse(), Ok(Workers(Some(4))));
        assert!("0".parse::<Workers>().is_err());
        assert!("many".parse::<Workers>().is_err());
    }
}
