// SPDX-License-Identifier: Apache-2.0
//! Bounds on everything that a client can fill.
//!
//! One list makes the struct, its defaults and its part of the schema, so that they cannot differ.

use std::time::Duration as Span;

use atomix_env::{Machine, MemoryLimit};
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::setting::{Presence, Scalar, Setting, Shape};
use crate::size::ByteSize;

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
        /// Bounds on everything that a client can fill. A full queue or table answers with an error; nothing grows without a bound.
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
    /// Concurrent waiting calls and watches on one connection; one more is refused. Other calls have room beside them. Old
    /// clients put all of theirs on a single connection.
    "streams-per-connection-max" streams_per_connection_max: count in "streams" = 1_500, 1 => 1_000_000;
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
    /// HTTP/2 flow control: bytes that a peer may send on one stream before it must wait.
    "stream-window" stream_window: bytes in "bytes" = kib(64), kib(16) => gib(1);
    /// HTTP/2 flow control: bytes that a peer may send on one connection before it must wait.
    "connection-window" connection_window: bytes in "bytes" = mib(1), kib(64) => gib(1);
    /// Time between two pings of the server on a connection.
    "ping-interval" ping_interval: span in "time" = seconds(30), seconds(1) => hours(1);
    /// Time for the answer to a ping; then the connection is dead.
    "ping-timeout" ping_timeout: span in "time" = seconds(10), millis(100) => minutes(5);
    /// Time for a new connection to begin to speak HTTP/2.
    "preface-timeout" preface_timeout: span in "time" = seconds(5), millis(100) => minutes(1);
    /// Connections to the primitives in all; one more gets a reason and is closed, unless the runtime can close one
    /// without calls and primitives, of a peer with more connections, for it. Without a setting at most one for each
    /// 256 KiB of the memory of the process, and what the limit of open files leaves beside a reserve.
    "connections-max" connections_max: count in "connections" = 10_000, 1 => 1_000_000;
    /// Connections to the primitives from one peer address. Without a setting at most three quarters of
    /// `connections-max`.
    "connections-per-peer-max" connections_per_peer_max: count in "connections" = 1_000, 1 => 1_000_000;
    /// Connections to the control services; half of them from one peer address. They do not count as connections to the
    /// primitives, so that an operator is served while those are full. Without a setting at most a sixteenth of the limit
    /// of open files.
    "control-connections-max" control_connections_max: count in "connections" = 256, 2 => 10_000;
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
    /// Buffers of all connections together: requests that are being received, calls that run, answers that wait for their
    /// readers. Beyond it, calls that need more wait or are refused, and the connections that use most and read nothing are
    /// cut. Without a setting at most an eighth of the memory of the process.
    "buffers-bytes-max" buffers_bytes_max: bytes in "bytes" = gib(1), mib(1) => gib(64);
    /// Calls that wait for one lock, or candidates for one election.
    "waiters-per-name-max" waiters_per_name_max: count in "calls" = 10_000, 1 => 1_000_000;
    /// Deadline of a call that brings none, except of one that waits by its nature.
    "call-deadline-default" call_deadline_default: span in "time" = seconds(10), millis(100) => hours(1);
    /// Primitives that are open at the same time. Without a setting at most one for each 8 KiB of the memory of the process.
    "primitives-max" primitives_max: count in "primitives" = 1_000_000, 1 => 100_000_000;
    /// Stores that are connected at the same time.
    "stores-max" stores_max: count in "stores" = 100, 1 => 10_000;
    /// Routes in one program, and rules or services in all of them together.
    "routes-max" routes_max: count in "routes" = 10_000, 1 => 1_000_000;
}

/// Bytes of memory that a connection with a session is counted with.
const CONNECTION_BYTES: u64 = 32 << 10;
/// The same for an open primitive.
const PRIMITIVE_BYTES: u64 = 1 << 10;

impl Limits {
    /// Lowers the defaults that this machine cannot afford; what is set stays. Returns the lowered keys and why.
    pub(crate) fn fit(&mut self, machine: &Machine, is_set: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let mut lowered = Vec::new();
        let MemoryLimit { bytes: memory, source } = machine.memory;
        let files = machine.open_files;
        let memory_says =
            |share: &str| format!("{share} of the memory limit {} ({source})", ByteSize::new(memory));
        let files_say = |share: &str| format!("{share} of the {files} open files");
        let mut lower = |key: &str, value: &mut u32, most: u64, why: String| {
            let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
            if most < *value && !is_set(&format!("limits.{key}")) {
                *value = most;
                lowered.retain(|(other, _)| other != key);
                lowered.push((key.to_owned(), why));
            }
        };
        let connections = memory / 8 / CONNECTION_BYTES;
        lower("connections-max", &mut self.connections_max, connections, memory_says("an eighth"));
        let connections = files.saturating_sub(files_kept(files));
        lower("connections-max", &mut self.connections_max, connections, files_say("what a reserve leaves"));
        let connections = u64::from(self.connections_max) * 3 / 4;
        let why = "three quarters of `connections-max`".to_owned();
        lower("connections-per-peer-max", &mut self.connections_per_peer_max, connections, why);
        let why = files_say("a sixteenth");
        lower("control-connections-max", &mut self.control_connections_max, (files / 16).max(2), why);
        let primitives = memory / 8 / PRIMITIVE_BYTES;
        lower("primitives-max", &mut self.primitives_max, primitives, memory_says("an eighth"));
        let buffers = ByteSize::new((memory / 8).max(1 << 20));
        if buffers < self.buffers_bytes_max && !is_set("limits.buffers-bytes-max") {
            self.buffers_bytes_max = buffers;
            lowered.push(("buffers-bytes-max".to_owned(), memory_says("an eighth")));
        }
        lowered
    }

    /// Returns the connections to the primitives for which there are no files, if there are any.
    pub(crate) fn connections_without_files(&self, machine: &Machine) -> Option<u64> {
        let most = machine.open_files.saturating_sub(files_kept(machine.open_files));
        u64::from(self.connections_max).checked_sub(most).filter(|missing| *missing > 0)
    }
}

/// Returns the files that are kept for control connections, stores, logs and the threads.
fn files_kept(files: u64) -> u64 {
    64 + files / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(memory: u64, files: u64, set: &[&str]) -> (Limits, Vec<(String, String)>) {
        let mut machine = Machine::simulated(memory);
        machine.open_files = files;
        let mut limits = Limits::default();
        let lowered = limits.fit(&machine, |key| set.contains(&key));
        (limits, lowered)
    }

    #[test]
    fn a_large_machine_changes_nothing() {
        let (limits, lowered) = fitted(gib(64), 65_536, &[]);
        assert_eq!((limits, lowered), (Limits::default(), Vec::new()));
    }

    #[test]
    fn a_small_container_lowers_what_is_not_set() {
        let (limits, lowered) = fitted(mib(256), 65_536, &["limits.primitives-max"]);
        assert_eq!((limits.connections_max, limits.connections_per_peer_max), (1_024, 768));
        assert_eq!(limits.buffers_bytes_max, ByteSize::new(mib(32)));
        assert_eq!(limits.primitives_max, 1_000_000, "it was set");
        let why = "an eighth of the memory limit 256MiB (machine)";
        assert_eq!(lowered[0], ("connections-max".to_owned(), why.to_owned()));
        assert_eq!(lowered.len(), 3, "{lowered:?}");
    }

    #[test]
    fn few_files_leave_a_reserve() {
        let (limits, lowered) = fitted(mib(256), 256, &[]);
        assert_eq!((limits.connections_max, limits.control_connections_max), (160, 16));
        let why = "what a reserve leaves of the 256 open files";
        assert_eq!(lowered[0], ("connections-max".to_owned(), why.to_owned()), "the last reason stays");
        let mut machine = Machine::simulated(gib(64));
        machine.open_files = 256;
        assert_eq!(Limits::default().connections_without_files(&machine), Some(10_000 - 160));
        assert_eq!(limits.connections_without_files(&machine), None);
    }
}
