//! The values of `run`'s options, from text to types.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;

use crate::request::{CopyIn, CopyOut, MemorySpec, ULIMITS, Ulimit, Volume};
use crate::scratch;
use rdvm_hostfs::units::{ByteSize, ParseError};

/// `auto` or a size.
pub(super) fn parse_memory(text: &str) -> Result<MemorySpec, ParseError> {
    match text {
        "auto" => Ok(MemorySpec::FromImage),
        size => size.parse::<ByteSize>().map(MemorySpec::Exactly),
    }
}

/// A size that scratch space may have.
pub(super) fn parse_scratch(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|error: ParseError| error.to_string())?;
    match (scratch::LEAST..=scratch::MOST).contains(&size) {
        true => Ok(size),
        false => Err(format!(
            "write a size from {} to {}, as in 4g",
            scratch::LEAST,
            scratch::MOST
        )),
    }
}

/// NAME=SOFT or NAME=SOFT:HARD, of the names of setrlimit(2).
pub(super) fn parse_ulimit(text: &str) -> Result<Ulimit, String> {
    let unknown = || {
        let names: Vec<&str> = ULIMITS.iter().map(|(name, _)| *name).collect();
        format!("no limit of that name; write one of {}", names.join(", "))
    };
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(u64::MAX),
        text => text
            .parse()
            .map_err(|_| format!("\"{text}\" is no limit; write a number or unlimited")),
    };
    let (name, values) = text
        .split_once('=')
        .ok_or("write NAME=SOFT or NAME=SOFT:HARD, as in nofile=1024")?;
    let known = ULIMITS.iter().find(|(known, _)| *known == name);
    let &(_, resource) = known.ok_or_else(unknown)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    match soft <= hard {
        true => Ok(Ulimit {
            resource,
            soft,
            hard,
        }),
        false => Err(format!("{soft} is more than its own upper limit {hard}")),
    }
}

/// HOST:GUEST, parted at the last colon: a host path may have one.
pub(super) fn parse_copy_in() -> impl TypedValueParser<Value = CopyIn> {
    OsStringValueParser::new().try_map(|text| {
        let bytes = text.as_bytes();
        let colon = bytes.iter().rposition(|&byte| byte == b':');
        let (host, guest) = sides(bytes, colon, "HOST:GUEST, as in src:/src")?;
        Ok::<_, String>(CopyIn {
            host: host.into(),
            guest,
        })
    })
}

/// GUEST:HOST, parted at the first colon.
pub(super) fn parse_copy_out() -> impl TypedValueParser<Value = CopyOut> {
    OsStringValueParser::new().try_map(|text| {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|&byte| byte == b':');
        let (guest, host) = sides(bytes, colon, "GUEST:HOST, as in /src/out:out")?;
        Ok::<_, String>(CopyOut {
            guest,
            host: host.into(),
        })
    })
}

/// DIR:GUEST or DIR:GUEST:ro, GUEST from the root.
pub(super) fn parse_volume() -> impl TypedValueParser<Value = Volume> {
    OsStringValueParser::new().try_map(|text| {
        let bytes = text.as_bytes();
        if bytes.ends_with(b":rw") {
            let way_out = "leave :rw out, and --copy-out GUEST:HOST brings files back";
            return Err(format!("a volume is read-only; {way_out}"));
        }
        let bytes = bytes.strip_suffix(b":ro").unwrap_or(bytes);
        let colon = bytes.iter().rposition(|&byte| byte == b':');
        let (host, guest) = sides(bytes, colon, "DIR:GUEST, as in src:/src")?;
        match guest.as_bytes() {
            [b'/', rest @ ..] if rest.iter().any(|&byte| byte != b'/') => Ok(Volume {
                host: host.into(),
                guest,
            }),
            _ => Err("write GUEST from the root on, as in /src".to_owned()),
        }
    })
}

fn sides(bytes: &[u8], colon: Option<usize>, form: &str) -> Result<(OsString, OsString), String> {
    let (left, right) = colon
        .map(|at| (&bytes[..at], &bytes[at + 1..]))
        .filter(|(left, right)| !left.is_empty() && !right.is_empty())
        .ok_or_else(|| format!("write {form}"))?;
    let owned = |side: &[u8]| OsString::from_vec(side.to_vec());
    match bytes.contains(&0) {
        true => Err("a path has no NUL".to_owned()),
        false => Ok((owned(left), owned(right))),
    }
}

/// Takes the place of an option of docker's that has no meaning or another name here, and says what to do instead.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere(pub(super) &'static str);

impl TypedValueParser for Elsewhere {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        option: Option<&clap::Arg>,
        _: &OsStr,
    ) -> Result<String, clap::Error> {
        // One that stands for several cannot tell which of them was given.
        let is_one =
            |option: &&clap::Arg| option.get_all_aliases().is_none_or(|all| all.is_empty());
        let name = option.filter(is_one).and_then(clap::Arg::get_long);
        let text = match name {
            Some(name) => format!("--{name}: {}", self.0),
            None => self.0.to_owned(),
        };
        Err(command.clone().error(ErrorKind::InvalidValue, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulimit_is_a_name_and_one_or_two_numbers() {
        let limit = |resource, soft, hard| {
            Ok(Ulimit {
                resource,
                soft,
                hard,
            })
        };
        assert_eq!(parse_ulimit("nofile=10"), limit(7, 10, 10));
        assert_eq!(parse_ulimit("core=0:unlimited"), limit(4, 0, u64::MAX));
        for bad in [
            "nofile",
            "files=1",
            "nofile=",
            "nofile=2:1",
            "nofile=-1:5",
            "cpu=1:x",
        ] {
            assert!(parse_ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scratch_space_has_a_least_and_a_most() {
        assert_eq!(parse_scratch("3g"), Ok(ByteSize(3 << 30)));
        for bad in ["", "0", "15m", "513g", "much"] {
            assert!(parse_scratch(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_copy_has_two_sides() {
        let sides = |text: &str, first: bool| {
            let bytes = text.as_bytes();
            let colon = match first {
                true => bytes.iter().position(|&byte| byte == b':'),
                false => bytes.iter().rposition(|&byte| byte == b':'),
            };
            sides(bytes, colon, "X")
        };
        let pair = |a: &str, b: &str| Ok((a.into(), b.into()));
        assert_eq!(sides("a:b:/c", false), pair("a:b", "/c"));
        assert_eq!(sides("/c:b:a", true), pair("/c", "b:a"));
        for bad in ["a", ":a", "a:", ""] {
            assert!(sides(bad, true).is_err(), "{bad}");
        }
    }
}
