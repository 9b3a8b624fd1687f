// SPDX-License-Identifier: Apache-2.0
//! The metadata `atomix-guard` of a call: fencing tokens that it presents with everything that it changes. A call may have
//! the metadata more than once.

use std::sync::Arc;

use atomix_primitives::{Error, FENCES_MAX, Fence, Kind};
use atomix_proto::guard::{Guard, METADATA, Mistake, Source};
use http::{HeaderMap, HeaderName};

/// The name of the metadata.
static GUARD: HeaderName = HeaderName::from_static(METADATA);

/// Reads the guards of a call; `None` without the metadata.
pub(crate) fn fences(headers: &HeaderMap) -> Result<Option<Arc<[Fence]>>, Error> {
    if !headers.contains_key(&GUARD) {
        return Ok(None);
    }
    let mut fences = Vec::new();
    for value in headers.get_all(&GUARD) {
        let text = value.to_str().map_err(|_| wrong("it is not ASCII text"))?;
        for guard in text.split(';') {
            if fences.len() == FENCES_MAX {
                return Err(wrong(&format!("a call has at most {FENCES_MAX}")));
            }
            fences.push(fence(guard.trim())?);
        }
    }
    Ok(Some(fences.into()))
}

fn fence(guard: &str) -> Result<Fence, Error> {
    let Guard { source, name, token } =
        guard.parse().map_err(|mistake: Mistake| wrong(&mistake.to_string()))?;
    let kind = match source {
        Source::Lock => Kind::Lock,
        Source::Election => Kind::Election,
    };
    Fence::new(kind, name, token)
}

fn wrong(problem: &str) -> Error {
    Error::invalid(format!("metadata `atomix-guard` is wrong: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<Arc<[Fence]>>, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&GUARD, value.parse().unwrap());
        }
        fences(&headers).map_err(|error| error.message().to_owned())
    }

    fn lock(name: &str, token: u64) -> Fence {
        Fence::new(Kind::Lock, name.to_owned(), token).unwrap()
    }

    #[test]
    fn guards_are_read_from_one_value_or_several() {
        assert_eq!(read(&[]), Ok(None));
        let election = Fence::new(Kind::Election, "é".to_owned(), 3).unwrap();
        for values in [
            &["lock=a%2Cb%3B,token=5;election=%C3%A9,token=3"][..],
            &["lock=a%2Cb%3B,token=5", "election=%C3%A9,token=3"],
        ] {
            assert_eq!(read(values).unwrap().unwrap()[..], [lock("a,b;", 5), election.clone()], "{values:?}");
        }
        assert_eq!(read(&["lock=,token=18446744073709551615"]).unwrap().unwrap()[..], [lock("", u64::MAX)]);
    }

    #[test]
    fn every_mistake_is_named() {
        let one = "lock=a,token=1";
        for (value, problem) in [
            ("", "each is"),
            ("lock=a", "each is"),
            ("map=a,token=1", "each is"),
            ("lock=a,token=-1", "a number of 64 bits"),
            ("lock=%ff,token=1", "not UTF-8"),
            (&[one; 5].join(";"), "at most 4"),
        ] {
            let message = read(&[value]).unwrap_err();
            assert!(message.contains(problem), "{value}: {message}");
        }
    }
}
