// SPDX-License-Identifier: Apache-2.0
//! The description of one key of the configuration: its shape, its bounds and its meaning.

use std::fmt;
use std::time::Duration as Span;

use crate::duration::Duration;
use crate::size::ByteSize;

/// The type of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// A closed set of keys.
    Table(&'static [Setting]),
    /// A list of one shape.
    List(&'static Shape),
    /// A free object that is passed on.
    Object,
    /// A single value.
    Scalar(Scalar),
}

/// A single value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar {
    Text,
    Listen,
    Mode,
    Choice(&'static [&'static str]),
    Count { min: u32, max: u32 },
    Bytes { min: u64, max: u64 },
    Span { min: Span, max: Span },
}

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) shape: Shape,
    pub(crate) presence: Presence,
    /// The unit of the value, or nothing.
    pub(crate) unit: &'static str,
    pub(crate) doc: &'static str,
}

/// The effect of an absent key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Presence {
    /// The default of [`crate::Config`] holds.
    Defaulted,
    /// An error.
    Required,
    /// The effect that this text describes.
    Optional(&'static str),
}

// === impl Shape ===

impl Shape {
    /// Returns what is allowed, for the end of a message.
    pub(crate) fn allowed(&self) -> String {
        match self {
            Self::Table(settings) => {
                let keys: Vec<_> = settings.iter().take(8).map(|setting| setting.key).collect();
                let more = if settings.len() > keys.len() { ", ..." } else { "" };
                format!("a table with the keys {}{more}", keys.join(", "))
            }
            Self::List(item) => match item {
                Self::Scalar(scalar) => format!("a list, each item {scalar}"),
                Self::Table(_) | Self::List(_) | Self::Object => "a list of tables".to_owned(),
            },
            Self::Object => "a table".to_owned(),
            Self::Scalar(scalar) => scalar.to_string(),
        }
    }
}

// === impl Scalar ===

impl Scalar {
    /// Returns the bounds for a table, or nothing if there are none.
    pub(crate) fn bounds(&self) -> String {
        match *self {
            Self::Text | Self::Listen | Self::Mode | Self::Choice(_) => String::new(),
            Self::Count { min, max } => format!("{min} to {max}"),
            Self::Bytes { min, max } => format!("{} to {}", ByteSize::new(min), ByteSize::new(max)),
            Self::Span { min, max } => format!("{} to {}", Duration::new(min), Duration::new(max)),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("a text"),
            Self::Mode => f.write_str("`auto` or an octal mode from 0000 to 0777, as a text"),
            Self::Listen => f.write_str("host:port, [v6]:port or unix:PATH"),
            Self::Choice(choices) => write!(f, "one of {}", choices.join(", ")),
            Self::Count { .. } => write!(f, "a whole number from {}", self.bounds()),
            Self::Bytes { .. } => write!(f, "a size from {}, such as 65536 or 64KiB", self.bounds()),
            Self::Span { .. } => write!(f, "a duration from {}, such as 250ms or 5s", self.bounds()),
        }
    }
}
