// SPDX-License-Identifier: Apache-2.0
//! The one place that maps errors of Redis and of the connection to [`Error`].

use atomix_store::{Error, ErrorKind};
use redis::RedisError;

/// The kind of the call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A call that changes nothing: without an answer it was certainly not applied.
    Read,
    /// A call that may have changed something.
    Write,
}

/// An instruction of a server to repeat a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// The slot lives at this address now.
    Moved(String),
    /// This one call must be sent there.
    Ask(String),
    /// This server does not know our library.
    NoLibrary,
    /// This server does not lead any more.
    NoLeader,
}

/// Returns the redirect of an error, if it is one. Such a call was certainly not applied.
pub(crate) fn redirect(error: &RedisError) -> Option<Redirect> {
    let address = |error: &RedisError| Some(error.detail()?.split_ascii_whitespace().nth(1)?.to_owned());
    match error.code()? {
        "MOVED" => address(error).map(Redirect::Moved),
        "ASK" => address(error).map(Redirect::Ask),
        "READONLY" | "MASTERDOWN" => Some(Redirect::NoLeader),
        "ERR" if error.detail().is_some_and(|detail| detail.starts_with("Function not found")) => {
            Some(Redirect::NoLibrary)
        }
        _ => None,
    }
}

/// Translates an error that a call ended with.
pub(crate) fn translate(error: RedisError, asked: Asked) -> Error {
    let (kind, message) = classify(&error, asked);
    Error::new(kind, message).caused_by(error)
}

fn classify(error: &RedisError, asked: Asked) -> (ErrorKind, &'static str) {
    let Some(code) = error.code() else {
        if error.kind() == redis::ErrorKind::AuthenticationFailed {
            return (ErrorKind::Denied, "redis refuses the user or the password");
        }
        if error.kind() == redis::ErrorKind::RESP3NotSupported {
            return (ErrorKind::Unsupported, "redis is too old: 7.0 is needed");
        }
        return lost(asked);
    };
    let detail = error.detail().unwrap_or_default();
    match code {
        "OOM" => (ErrorKind::Full, "redis is out of memory: delete entries or raise its `maxmemory`"),
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Denied, "redis refuses the user or the password"),
        "NOPERM" => (ErrorKind::Denied, "redis does not let this user do that"),
        // All of these are refused before anything is done.
        "LOADING" => (ErrorKind::Unavailable, "redis is loading its data"),
        "BUSY" => (ErrorKind::Unavailable, "redis is busy with a script"),
        "READONLY" => (ErrorKind::Unavailable, "redis is a replica"),
        "MASTERDOWN" => (ErrorKind::Unavailable, "redis has lost its master"),
        "MISCONF" => (ErrorKind::Unavailable, "redis cannot write its snapshots and takes no writes"),
        "NOREPLICAS" => (ErrorKind::Unavailable, "redis has not enough replicas and takes no writes"),
        "CLUSTERDOWN" => (ErrorKind::Unavailable, "the cluster does not serve this keyspace"),
        "TRYAGAIN" => (ErrorKind::Unavailable, "the keyspace is on its way to another node"),
        "MOVED" | "ASK" => (ErrorKind::Unavailable, "the nodes do not agree where the keyspace is"),
        "WRONGTYPE" => (ErrorKind::Corrupt, "a key of the keyspace holds something else"),
        "CROSSSLOT" => (ErrorKind::Internal, "a keyspace is spread over slots"),
        "ERR" if detail.starts_with("Function not found") => {
            (ErrorKind::Unavailable, "redis does not keep the library that was just loaded")
        }
        "ERR" if detail.contains("user executing the script can't") => {
            (ErrorKind::Denied, "redis does not let this user do that")
        }
        "ERR" if detail.starts_with("max number of clients") => {
            (ErrorKind::Unavailable, "redis takes no more connections")
        }
        "ERR" if detail.starts_with("unknown command") => {
            (ErrorKind::Unsupported, "redis is too old: 7.0 is needed")
        }
        "ERR" if detail.contains("DAMAGED") => (ErrorKind::Corrupt, "a key of the keyspace has no record"),
        "ERR" if detail.contains("ID specified in XADD") => {
            (ErrorKind::Corrupt, "the keyspace has lost its state but not its history")
        }
        _ => match asked {
            Asked::Read => (ErrorKind::Internal, "redis answers with an error"),
            Asked::Write => (ErrorKind::OutcomeUnknown, "redis answers with an error"),
        },
    }
}

/// Returns the error of a call that gets no answer.
pub(crate) fn unanswered(asked: Asked) -> Error {
    let (kind, message) = lost(asked);
    Error::new(kind, message)
}

fn lost(asked: Asked) -> (ErrorKind, &'static str) {
    match asked {
        Asked::Read => (ErrorKind::Unavailable, "redis did not answer"),
        Asked::Write => (ErrorKind::OutcomeUnknown, "redis did not answer: it may have applied the request"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Value;

    /// An error line of a server, as the client reads it.
    fn said(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        assert!(matches!(value, Value::ServerError(_)));
        value.extract_error().unwrap_err()
    }

    #[test]
    fn every_answer_of_a_server_has_its_meaning() {
        use ErrorKind::{Corrupt, Denied, Full, Internal, OutcomeUnknown, Unavailable, Unsupported};
        let table = [
            ("OOM command not allowed when used memory > 'maxmemory'.", Full, Full),
            (
                "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
                Full,
                Full,
            ),
            ("NOAUTH Authentication required.", Denied, Denied),
            ("WRONGPASS invalid username-password pair or user is disabled.", Denied, Denied),
            ("NOPERM this user has no permissions to run the 'fcall' command", Denied, Denied),
            (
                "ERR The user executing the script can't run this command or subcommand script: x, on @user_function:1.",
                Denied,
                Denied,
            ),
            ("LOADING Redis is loading the dataset in memory", Unavailable, Unavailable),
            ("BUSY Redis is busy running a script.", Unavailable, Unavailable),
            ("READONLY You can't write against a read only replica.", Unavailable, Unavailable),
            ("MASTERDOWN Link with MASTER is down", Unavailable, Unavailable),
            ("MISCONF Redis is configured to save RDB snapshots", Unavailable, Unavailable),
            ("NOREPLICAS Not enough good replicas to write.", Unavailable, Unavailable),
            ("CLUSTERDOWN Hash slot not served", Unavailable, Unavailable),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable, Unavailable),
            ("MOVED 3999 127.0.0.1:6381", Unavailable, Unavailable),
            ("ASK 3999 127.0.0.1:6381", Unavailable, Unavailable),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt, Corrupt),
            ("CROSSSLOT Keys in request don't hash to the same slot", Internal, Internal),
            ("ERR Function not found", Unavailable, Unavailable),
            ("ERR max number of clients reached", Unavailable, Unavailable),
            ("ERR unknown command 'FCALL'", Unsupported, Unsupported),
            ("ERR user_function:1: DAMAGED a key without a record script: read", Corrupt, Corrupt),
            (
                "ERR The ID specified in XADD is equal or smaller than the target stream top item script: x",
                Corrupt,
                Corrupt,
            ),
            ("ERR something that nobody has heard of", Internal, OutcomeUnknown),
            ("NEWCODE something that nobody has heard of", Internal, OutcomeUnknown),
        ];
        for (line, read, write) in table {
            assert_eq!(translate(said(line), Asked::Read).kind(), read, "{line}");
            assert_eq!(translate(said(line), Asked::Write).kind(), write, "{line}");
        }
    }

    #[test]
    fn without_an_answer_a_write_may_have_been_applied() {
        for kind in [
            std::io::ErrorKind::BrokenPipe,
            std::io::ErrorKind::ConnectionReset,
            std::io::ErrorKind::UnexpectedEof,
            std::io::ErrorKind::TimedOut,
        ] {
            let error = || RedisError::from(std::io::Error::from(kind));
            assert_eq!(translate(error(), Asked::Write).kind(), ErrorKind::OutcomeUnknown);
            assert_eq!(translate(error(), Asked::Read).kind(), ErrorKind::Unavailable);
        }
        let garbage = || redis::parse_redis_value(b"garbage\r\n").unwrap_err();
        assert_eq!(translate(garbage(), Asked::Write).kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(unanswered(Asked::Write).kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(unanswered(Asked::Read).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn an_answer_may_say_where_to_ask() {
        let to = |line| redirect(&said(line));
        assert_eq!(to("MOVED 1 h:1"), Some(Redirect::Moved("h:1".to_owned())));
        assert_eq!(to("ASK 1 h:1"), Some(Redirect::Ask("h:1".to_owned())));
        assert_eq!(to("ERR Function not found"), Some(Redirect::NoLibrary));
        assert_eq!(to("READONLY You can't write against a read only replica."), Some(Redirect::NoLeader));
        assert_eq!(to("OOM command not allowed"), None);
    }
}
