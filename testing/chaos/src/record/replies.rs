// SPDX-License-Identifier: Apache-2.0
//! Converts replies of calls to answers of the models.

use atomix_client::election::Term;
use atomix_client::{Versioned, Written};
use atomix_linearizability::{cell, election, index, list, member, number};

/// The reply of a call: its value, or the reason of its error.
pub(super) type Reply<'a, T> = Result<T, &'a str>;
/// An entry of an indexed map.
pub(super) type Entry = atomix_client::indexedmap::Entry<String>;
/// An item of a list.
pub(super) type Item = atomix_client::list::Item<String>;

/// The answer of the only object that a call was about.
pub(super) fn one<A>(answer: Option<A>) -> Option<Vec<A>> {
    answer.map(|answer| vec![answer])
}

/// Returns the mark that was written as this text, with padding or without. The last number is no mark.
pub(super) fn parse(text: &str) -> u64 {
    text.split(' ').next().and_then(|mark| mark.parse().ok()).unwrap_or(u64::MAX)
}

pub(super) fn is(value: Option<&Versioned<String>>) -> cell::Answer {
    match value {
        Some(value) => cell::Answer::Is(parse(&value.value), value.version),
        None => cell::Answer::Missing,
    }
}

pub(super) fn conflict(reason: &str) -> Option<cell::Answer> {
    match reason {
        "VERSION_MISMATCH" => Some(cell::Answer::Conflict),
        "KEY_EXISTS" => Some(cell::Answer::Exists),
        "KEY_NOT_FOUND" | "VALUE_NOT_SET" => Some(cell::Answer::Missing),
        _ => None,
    }
}

pub(super) fn read(reply: Reply<'_, Option<Versioned<String>>>) -> Option<cell::Answer> {
    reply.map_or_else(conflict, |value| Some(is(value.as_ref())))
}

pub(super) fn written(reply: Reply<'_, Written<String>>) -> Option<cell::Answer> {
    reply.map_or_else(conflict, |written| {
        let previous = written.previous.map(|value| (parse(&value.value), value.version));
        Some(cell::Answer::Written(written.version, previous))
    })
}

pub(super) fn inserted(reply: Reply<'_, u64>) -> Option<cell::Answer> {
    reply.map_or_else(conflict, |version| Some(cell::Answer::Inserted(version)))
}

pub(super) fn numbered(reply: Reply<'_, i64>) -> Option<number::Answer> {
    maybe(reply.map(Some))
}

pub(super) fn maybe(reply: Reply<'_, Option<i64>>) -> Option<number::Answer> {
    match reply {
        Ok(Some(number)) => Some(number::Answer::Is(number)),
        Ok(None) | Err("KEY_NOT_FOUND") => Some(number::Answer::Missing),
        Err("VALUE_MISMATCH") => Some(number::Answer::Conflict),
        Err("KEY_EXISTS") => Some(number::Answer::Exists),
        Err(_) => None,
    }
}

pub(super) fn yes(yes: bool) -> member::Answer {
    if yes { member::Answer::Yes } else { member::Answer::No }
}

pub(super) fn changed(reply: Reply<'_, bool>) -> Option<member::Answer> {
    reply.ok().map(yes)
}

pub(super) fn placed(reply: Reply<'_, list::Answer>) -> Option<list::Answer> {
    match reply {
        Ok(answer) => Some(answer),
        Err("INVALID_ARGUMENT") => Some(list::Answer::Beyond),
        Err(_) => None,
    }
}

pub(super) fn indexed(reply: Reply<'_, Option<Entry>>) -> Option<index::Answer> {
    match reply {
        Ok(Some(entry)) => {
            let key = parse(entry.key.trim_start_matches('k'));
            let value = parse(&entry.value.value);
            Some(index::Answer::Entry((key, value, entry.index, entry.value.version)))
        }
        Ok(None) | Err("KEY_NOT_FOUND") => Some(index::Answer::Missing),
        Err("KEY_EXISTS") => Some(index::Answer::Exists),
        Err(_) => None,
    }
}

pub(super) fn term_answer(term: Term) -> election::Answer {
    let queue = term.leader.into_iter().chain(term.candidates).collect();
    election::Answer { term: term.number, queue }
}
