// SPDX-License-Identifier: Apache-2.0
//! The problems of a configuration, all of them together.

use std::fmt;

use crate::id::StoreId;
use crate::origin::Origin;
use crate::size::ByteSize;

/// The problems of a rejected configuration. Displays one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    problems: Vec<Problem>,
    left_out: usize,
}

/// A file of nothing but errors should not fill a log.
const PROBLEMS_MAX: usize = 32;

/// One thing that is wrong. Every kind is cured by changing the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file could not be read.
    #[error("configuration file not readable, check path and rights: file=`{path}` reason=`{reason}`")]
    FileUnreadable {
        /// The file, as the caller named it.
        path: String,
        /// The error of the operating system.
        reason: String,
    },
    /// The file is larger than a configuration can be.
    #[error("configuration file too large, check that it is the right one: file=`{path}` max=`{max}`")]
    FileTooLarge {
        /// The file, as the caller named it.
        path: String,
        /// The largest size that is read.
        max: ByteSize,
    },
    /// The name of the file does not show its format.
    #[error("format of the configuration file unknown, name it .yaml, .yml or .toml: file=`{path}`")]
    FileFormat {
        /// The file, as the caller named it.
        path: String,
    },
    /// A text is not in the format that it should be in.
    #[error("syntax not valid, correct it:{} reason=`{reason}`{}", key_fact(.key.as_deref()), .origin.fact())]
    Syntax {
        /// The key whose value is wrong, or nothing if it is the whole file.
        key: Option<String>,
        /// The error of the parser.
        reason: String,
        /// The layer.
        origin: Origin,
    },
    /// There is no such key.
    #[error("unknown key, correct or remove it: key=`{key}`{}{}", nearest_fact(.nearest.as_deref()), .origin.fact())]
    UnknownKey {
        /// The path of the key.
        key: String,
        /// The path of the valid key that it may have been meant to be.
        nearest: Option<String>,
        /// The layer.
        origin: Origin,
    },
    /// The key belongs to the `server` table of the original proxy.
    #[error("key of the original proxy, {}: key=`{key}`{}", instead(*.replacement), .origin.fact())]
    Replaced {
        /// The path of the key.
        key: String,
        /// The setting that takes its place, if there is one.
        replacement: Option<&'static str>,
        /// The layer.
        origin: Origin,
    },
    /// A required key is not there.
    #[error("required key missing, add it: key=`{key}`{}", .origin.fact())]
    KeyMissing {
        /// The path of the key.
        key: String,
        /// The layer.
        origin: Origin,
    },
    /// The value is of the wrong kind or out of its bounds.
    #[error("value not allowed, change it: key=`{key}` value=`{value}` allowed=`{allowed}`{}", .origin.fact())]
    Value {
        /// The path of the key.
        key: String,
        /// The value, shortened; the kind of the value if it is a list or a table.
        value: String,
        /// The allowed values.
        allowed: String,
        /// The layer.
        origin: Origin,
    },
    /// One layer sets the same thing under two names.
    #[error("two keys for one setting, keep one: key=`{key}` other=`{other}`{}", .origin.fact())]
    KeyTwice {
        /// The path of one key.
        key: &'static str,
        /// The path of the other key.
        other: &'static str,
        /// The layer.
        origin: Origin,
    },
    /// A list of routes is partly of one style, partly of the other.
    #[error(
        "routes of two styles, give all of them `tags` and `services` or all of them `rules`: \
         seed=`routes[{seed}]` later=`routes[{later}]`{}", .origin.fact()
    )]
    RoutesMixed {
        /// The index of the first route with `tags` or `services`.
        seed: usize,
        /// The index of the first route with `rules`; the same one if it has both.
        later: usize,
        /// The layer.
        origin: Origin,
    },
    /// Two stores have one identity.
    #[error("two stores with one identity, rename or remove one: store=`{store}`{}", .origin.fact())]
    StoreTwice {
        /// The identity.
        store: StoreId,
        /// The layer.
        origin: Origin,
    },
    /// The primitives and the control services have an address in common.
    #[error("one address for `listen` and `control`, give each its own: address=`{address}`{}", .origin.fact())]
    ListenShared {
        /// The address.
        address: String,
        /// The layer of `control`.
        origin: Origin,
    },
    /// An address is in a list twice.
    #[error("address given twice, remove one: key=`{key}` address=`{address}`{}", .origin.fact())]
    ListenTwice {
        /// The list.
        key: &'static str,
        /// The address.
        address: String,
        /// The layer.
        origin: Origin,
    },
    /// There is no address at all.
    #[error("no address to listen on, set `listen` or `control`")]
    NothingListens,
    /// A printed configuration, in which secrets are hidden, was given back.
    #[error("secret left hidden by --print-config, put the real value in: key=`{key}`{}", .origin.fact())]
    SecretHidden {
        /// The path of the key.
        key: String,
        /// The layer.
        origin: Origin,
    },
}

/// A setting that is allowed but probably a mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A route leads to a store that is not connected at start. Calls wait until it is connected by the API.
    #[error(
        "store of a route not configured, connect it later or add it to `stores`: key=`{key}` store=`{store}`"
    )]
    RouteStoreAbsent {
        /// The path of the route.
        key: String,
        /// The store.
        store: StoreId,
    },
    /// A limit is set above another one that is always met first.
    #[error("limit without effect, raise the other or lower it: key=`limits.{key}` other=`limits.{other}`")]
    LimitWithoutEffect {
        /// The limit.
        key: &'static str,
        /// The limit that is met first.
        other: &'static str,
    },
    /// The limit of open files is small, and could not be raised.
    #[error(
        "few open files, raise the hard limit (`ulimit -Hn`, `LimitNOFILE=`): open-files=`{files}` \
         limits.connections-max=`{connections}`"
    )]
    FilesFew {
        /// The limit of open files.
        files: u64,
        /// The connections for which it leaves room.
        connections: u32,
    },
    /// More connections are allowed than there are files for.
    #[error(
        "more connections than open files, raise the limit of open files or lower the other: \
         key=`limits.connections-max` value=`{connections}` without-file=`{missing}` open-files=`{files}`"
    )]
    FilesTooFew {
        /// The limit.
        connections: u32,
        /// The connections for which there are no files.
        missing: u64,
        /// The limit of open files.
        files: u64,
    },
    /// A variable of our prefix is no setting. With [`crate::Loader::strict`] it is [`Problem::UnknownKey`].
    #[error(
        "variable that is no setting ignored, correct or remove it: env=`{}`{}",
        crate::origin::printable(name), nearest_variable(nearest.as_deref())
    )]
    VariableUnknown {
        /// The variable.
        name: String,
        /// The path of the valid key that it may have been meant to be.
        nearest: Option<String>,
    },
    /// A variable of the original has no meaning here.
    #[error("variable of the original without effect, set `{instead}`: env=`{name}`")]
    VariableWithoutEffect {
        /// The variable.
        name: &'static str,
        /// The setting that takes its place.
        instead: &'static str,
    },
}

// === impl Error ===

impl Error {
    /// Makes an error of `problems` if there are any.
    pub(crate) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        let left_out = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        Err(Self { problems, left_out })
    }

    /// Returns the problems in the order of the layers; never empty, and of a bounded length.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.left_out > 0 {
            write!(f, "\nmore problems left out: count=`{}`", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], left_out: 0 }
    }
}

fn key_fact(key: Option<&str>) -> String {
    key.map(|key| format!(" key=`{key}`")).unwrap_or_default()
}

fn nearest_fact(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(" nearest=`{key}`")).unwrap_or_default()
}

fn nearest_variable(nearest: Option<&str>) -> String {
    let variable = |key: &str| key.to_ascii_uppercase().replace('.', "__").replace('-', "_");
    nearest.map(|key| format!(" nearest=`{key}` write=`ATOMIX_{}`", variable(key))).unwrap_or_default()
}

fn instead(replacement: Option<&str>) -> String {
    match replacement {
        Some(key) => format!("set `{key}` instead"),
        None => "remove it, nothing takes its place".to_owned(),
    }
}
