// SPDX-License-Identifier: Apache-2.0
//! The metadata `atomix-guard`, by which a call presents fencing tokens: `lock=NAME,token=N` or `election=NAME,token=N`, several
//! separated by `;`, NAME percent-encoded.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The name of the metadata.
pub const METADATA: &str = "atomix-guard";

/// One guard: the token of a lock, or the term of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The kind of primitive that gave the token.
    pub source: Source,
    /// Its name.
    pub name: String,
    /// The token.
    pub token: u64,
}

/// The kinds of primitives that give fencing tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Source {
    Lock,
    Election,
}

/// The mistake in a text that is no guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Mistake {
    Form,
    Token,
    Name,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::Lock => "lock",
            Source::Election => "election",
        };
        write!(f, "{source}={},token={}", utf8_percent_encode(&self.name, NON_ALPHANUMERIC), self.token)
    }
}

impl FromStr for Guard {
    type Err = Mistake;

    fn from_str(text: &str) -> Result<Self, Mistake> {
        let (source, token) = text.split_once(",token=").ok_or(Mistake::Form)?;
        let (source, name) = source.split_once('=').ok_or(Mistake::Form)?;
        let source = match source {
            "lock" => Source::Lock,
            "election" => Source::Election,
            _ => return Err(Mistake::Form),
        };
        let token = token.parse().map_err(|_| Mistake::Token)?;
        let name = percent_decode_str(name).decode_utf8().map_err(|_| Mistake::Name)?.into_owned();
        Ok(Self { source, name, token })
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => {
                "each is `lock=NAME,token=N` or `election=NAME,token=N`, with a percent-encoded NAME"
            }
            Self::Token => "the token is a number of 64 bits",
            Self::Name => "the name is not UTF-8",
        })
    }
}
