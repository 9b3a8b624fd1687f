// SPDX-License-Identifier: Apache-2.0
//! Bounds on everything that a client can fill.
//!
//! One list makes the struct, its defaults and its part of the schema, so that they cannot differ.

use std::time::Duration as Span;

use serde::{Deserialize, Serialize};

use crate::schema::{Presence, Scalar, Setting, Shape};
use crate::{ByteSize, Duration};

const fn kib(number: u64) -> u64 {
    number << 10
}

const fn mib(number: u64) -> u64 {
    number << 20
}

const fn gib(number: u64) -> u64 {
    number << 30
}

const fn millis(number: u64) -> Span {
    Span::from_millis(number)
}

const fn seconds(number: u64) -> Span {
    Span::from_secs(number)
}

const fn minutes(number: u64) -> Span {
    Span::from_mins(number)
}

const fn hours(number: u64) -> Span {
    Span::from_hours(number)
}

macro_rules! limits {
    (@type count) => { u32 };
    (@type bytes) => { ByteSize };
    (@type span) => { Duration };
    (@value count $value:expr) => { $value };
    (@value bytes $value:expr) => { ByteSize::new($value) };
    (@value span $value:expr) => { Duration::new($value) };
    (@scalar count $min:expr, $max:expr) => { Scalar::Count { min: $min, max: $max } };
    (@scalar bytes $min:expr, $max:expr) => { Scalar::Bytes { min: $min, max: $max } };
    (@scalar span $min:expr, $max:expr) => { Scalar::Span { min: $min, max: $max } };
    ($($(#[doc = $doc:literal])+ $key:literal $field:ident: $kind:ident in $unit:literal
        = $default:expr, $min:expr => $max:expr;)+) => {
        /// Bounds on everything that a client can fill. What is full says so; nothing grows without end.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Limits {
            $(
                $(#[doc = $doc])+
                ///
                #[doc = concat!(
                    "Unit: ", $unit, ". Default: `", stringify!($default), "`. Bounds: `", stringify!($min),
                    "` to `", stringify!($max), "`."
                )]
                #[serde(rename = $key)]
                pub $field: limits!(@type $kind),
            )+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: limits!(@value $kind $default),)+ }
            }
        }

        pub(crate) const SETTINGS: &[Setting] = &[$(
            Setting {
                key: $key,
                shape: Shape::Scalar(limits!(@scalar $kind $min, $max)),
                presence: Presence::Defaulted,
                unit: $unit,
                doc: concat!($($doc),+),
            },
        )+];
    };
}

limits! {
    /// Calls and watches at once on one connection. Old clients put all of theirs on a single one.
    "streams-per-connection-max" streams_per_connection_max: count in "streams" = 1_000, 1 => 1_000_000;
    /// Streams that the server reset because of the peer's errors, remembered per connection; one more ends the
    /// connection.
    "local-reset-streams-max" local_reset_streams_max: count in "streams" = 1_024, 1 => 65_536;
    /// Streams that the peer reset before they were accepted, per connection; one more ends the connection
    /// (rapid reset).
    "pending-reset-streams-max" pending_reset_streams_max: count in "streams" = 20, 1 => 65_536;
    /// All headers of one request.
    "header-list-bytes-max" header_list_bytes_max: bytes in "bytes" = kib(16), kib(1) => mib(1);
    /// One received message.
    "message-bytes-max" message_bytes_max: bytes in "bytes" = mib(4), kib(4) => mib(256);
    /// One value of a primitive.
    "value-bytes-max" value_bytes_max: bytes in "bytes" = mib(1), kib(1) => mib(64);
    /// One key, element or candidate of a primitive.
    "key-bytes-max" key_bytes_max: bytes in "bytes" = 4_096, 64 => kib(64);
    /// The name of a primitive.
    "name-bytes-max" name_bytes_max: bytes in "bytes" = 1_024, 16 => kib(64);
    /// Operations or values in one call.
    "batch-max" batch_max: count in "operations" = 10_000, 1 => 1_000_000;
    /// HTTP/2 flow control: what a peer may send on one stream before it must wait.
    "stream-window" stream_window: bytes in "bytes" = kib(64), kib(16) => gib(1);
    /// HTTP/2 flow control: what a peer may send on one connection before it must wait.
    "connection-window" connection_window: bytes in "bytes" = mib(1), kib(64) => gib(1);
    /// Time between two pings of the server on a connection.
    "ping-interval" ping_interval: span in "time" = seconds(30), seconds(1) => hours(1);
    /// Time for the answer to a ping; then the connection is dead.
    "ping-timeout" ping_timeout: span in "time" = seconds(10), millis(100) => minutes(5);
    /// Time for a new connection to begin to speak HTTP/2, a TLS handshake included.
    "preface-timeout" preface_timeout: span in "time" = seconds(5), millis(100) => minutes(1);
    /// Connections in all; one more is closed at once.
    "connections-max" connections_max: count in "connections" = 10_000, 1 => 1_000_000;
    /// Connections from one peer address.
    "connections-per-peer-max" connections_per_peer_max: count in "connections" = 1_000, 1 => 1_000_000;
    /// Pings in a second from a peer that sends nothing else; one more ends the connection.
    "pings-per-second-max" pings_per_second_max: count in "pings" = 10, 1 => 1_000;
    /// Time after which a connection without streams and without sessions is closed.
    "idle-timeout" idle_timeout: span in "time" = minutes(15), seconds(1) => hours(24);
    /// Answers that wait for a slow reader on one stream; then the stream ends with a reason.
    "stream-send-bytes-max" stream_send_bytes_max: bytes in "bytes" = mib(1), kib(64) => gib(1);
    /// Answers that wait for a slow reader on one connection; then streams end with a reason.
    "connection-send-bytes-max" connection_send_bytes_max: bytes in "bytes" = mib(4), kib(64) => gib(1);
    /// Large requests that are being received on one connection; more wait their turn.
    "connection-receive-bytes-max" connection_receive_bytes_max: bytes in "bytes" = mib(8), kib(64) => gib(1);
    /// Calls that wait for one lock, or candidates for one election.
    "waiters-per-name-max" waiters_per_name_max: count in "calls" = 10_000, 1 => 1_000_000;
    /// Deadline of a call that brings none, except of one that waits by its nature.
    "call-deadline-default" call_deadline_default: span in "time" = seconds(10), millis(100) => hours(1);
    /// Primitives that are open at once.
    "primitives-max" primitives_max: count in "primitives" = 1_000_000, 1 => 100_000_000;
}
