// SPDX-License-Identifier: Apache-2.0
//! Judges what streams of changes have shown, by the calls that made the changes.
//!
//! The properties are those of etcd's watch validator, as far as the events carry their subject: a stream is
//! ordered, shows nothing twice, shows all changes of a transaction together, leaves nothing out, shows the
//! previous value, distinguishes creations from updates, and keeps to its filter. A stream of the runtime
//! cannot be resumed by its reader: it is complete from its acknowledgement to its end, and the next one is
//! another stream.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// The changes of one primitive, and the streams that showed them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WatchHistory {
    /// Changes that calls have made, or may have made.
    pub changes: Vec<Change>,
    /// The streams.
    pub streams: Vec<Stream>,
    /// Whether each change writes a value that no other does, so that a value which no change wrote is wrong.
    pub marked: bool,
    /// The nanoseconds by which an expiry may be late. `None`: it is not judged.
    pub late: Option<u64>,
}

/// The change of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// It was absent and is there.
    Inserted,
    /// It was there and has a new value.
    Updated,
    /// It is gone.
    Removed,
    /// It is gone because its time was over.
    Expired,
}

/// A change that a call made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Whether it wrote the value or removed it.
    pub wrote: bool,
    /// The value.
    pub value: u64,
    /// The time of the call.
    pub began: u64,
    /// The time of the answer. Without it the outcome is unknown.
    pub ended: Option<u64>,
    /// The time to live that the value was given, in nanoseconds.
    pub ttl: Option<u64>,
}

/// A stream from its acknowledgement to its end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Stream {
    /// The reader.
    pub client: u32,
    /// The only key that it is about, if it is not about all.
    pub only: Option<String>,
    /// The time of its acknowledgement: every change that begins later is shown.
    pub began: u64,
    /// Changes that ended before this were shown: the stream has shown one that began then. Set when the
    /// reader waited for it; else it is found from the shown changes.
    pub settled: u64,
    /// The events, in order.
    pub events: Vec<Event>,
}

/// A change as it was shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The time of the event.
    pub at: u64,
    /// The key.
    pub key: String,
    /// The change.
    pub kind: Kind,
    /// The new value; the last one, if it is gone.
    pub value: u64,
    /// The version of this change; 0 if the event does not carry it.
    pub version: u64,
    /// The previous value with its version, if the event carries it.
    pub previous: Option<(u64, u64)>,
}

/// A property that a stream does not have, and the events or changes that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamViolation {
    /// The violated property.
    pub rule: Rule,
    /// The evidence, for readers.
    pub why: String,
}

/// The guarantees of a stream of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Changes come in the order in which they were made.
    Ordered,
    /// No change comes twice.
    Unique,
    /// The changes of one transaction come together.
    Atomic,
    /// No change is left out.
    Reliable,
    /// The previous value is reported, and is right.
    Previous,
    /// New entries are reported as new, and no others are.
    Create,
    /// A stream about one key shows no other key.
    Filter,
    /// Every event has a call that made it.
    True,
    /// Nothing expires before its time.
    Early,
    /// Nothing is there long after its time.
    Late,
}

/// The known state of a key while a stream is read.
type Known = Option<(u64, u64)>;

/// Changes that a stream shows in the same way.
type Sort<'a> = (&'a str, bool, u64);

// === impl WatchHistory ===

impl WatchHistory {
    /// Returns all violations of all streams.
    pub fn check(&self) -> Vec<StreamViolation> {
        let mut changes: HashMap<Sort<'_>, Vec<&Change>> = HashMap::new();
        for change in &self.changes {
            changes.entry((&change.key, change.wrote, change.value)).or_default().push(change);
        }
        self.streams.iter().flat_map(|stream| self.judge(stream, &changes)).collect()
    }

    fn judge(&self, stream: &Stream, changes: &HashMap<Sort<'_>, Vec<&Change>>) -> Vec<StreamViolation> {
        let mut violations = Vec::new();
        let mut violate = |rule, why: String| {
            violations
                .push(StreamViolation { rule, why: format!("stream of client {}: {why}", stream.client) });
        };
        let mut known: HashMap<&str, Known> = HashMap::new();
        let mut versions: HashSet<u64> = HashSet::new();
        let mut shown: HashMap<Sort<'_>, usize> = HashMap::new();
        let mut version = 0;
        // The latest beginning of a change that was shown: what was over before must have been shown before.
        let mut reached = 0;
        for event in &stream.events {
            if stream.only.as_ref().is_some_and(|only| *only != event.key) {
                violate(Rule::Filter, format!("{event:?}"));
            }
            if event.version > 0 {
                if event.version < version {
                    // It is out of order, and if some of its transaction came in order, that one is torn.
                    let rule = if versions.contains(&event.version) { Rule::Atomic } else { Rule::Ordered };
                    violate(rule, format!("after version {version}: {event:?}"));
                }
                versions.insert(event.version);
                version = version.max(event.version);
            }
            if let Some((rule, why)) = follows(known.get(event.key.as_str()), event) {
                violate(rule, why);
            }
            let after = event.kind.writes().then_some((event.value, event.version));
            known.insert(&event.key, after);
            let sort = (event.key.as_str(), event.kind.writes(), event.value);
            *shown.entry(sort).or_default() += 1;
            if event.kind == Kind::Expired {
                let put = changes.get(&(event.key.as_str(), true, event.value));
                for (rule, why) in self.expired(event, put.and_then(|puts| puts.first()).copied()) {
                    violate(rule, why);
                }
            }
            match changes.get(&sort).map(Vec::as_slice) {
                None if self.marked && event.kind.writes() => violate(Rule::True, format!("{event:?}")),
                Some([change]) => {
                    if shown[&sort] > 1 {
                        violate(Rule::Unique, format!("{event:?}"));
                    } else if change.ended.is_some_and(|ended| ended < reached) {
                        violate(Rule::Ordered, format!("too late: {event:?} of {change:?}"));
                    }
                    reached = reached.max(change.began);
                }
                Some(_) | None => {}
            }
        }
        let settled = reached.max(stream.settled);
        for (sort, changes) in changes {
            if stream.only.as_ref().is_some_and(|only| only != sort.0) {
                continue;
            }
            let must = |change: &&&Change| {
                change.began >= stream.began && change.ended.is_some_and(|ended| ended < settled)
            };
            let due = changes.iter().filter(must).count();
            if due > shown.get(sort).copied().unwrap_or(0) {
                let missing: Vec<_> = changes.iter().filter(must).collect();
                violate(Rule::Reliable, format!("of {due} it shows {:?}: {missing:?}", shown.get(sort)));
            }
        }
        violations
    }

    /// Judges the time at which an entry went that `put` wrote.
    fn expired(&self, event: &Event, put: Option<&Change>) -> Vec<(Rule, String)> {
        let mut violations = Vec::new();
        let Some(put) = put else { return violations };
        match put.ttl {
            None => violations.push((Rule::Early, format!("it had no time to live: {event:?}"))),
            Some(ttl) => {
                if event.at < put.began + ttl {
                    violations.push((Rule::Early, format!("{event:?} of {put:?}")));
                }
                if let (Some(late), Some(ended)) = (self.late, put.ended)
                    && event.at > ended + ttl + late
                {
                    violations.push((Rule::Late, format!("{event:?} of {put:?}")));
                }
            }
        }
        violations
    }
}

/// Returns the violation of an event after the known state of its key.
fn follows(known: Option<&Known>, event: &Event) -> Option<(Rule, String)> {
    let reported = event.previous.or_else(|| (!event.kind.writes()).then_some((event.value, 0)));
    let differs = |(value, version): (u64, u64)| {
        reported.is_some_and(|reported| {
            reported.0 != value || reported.1 != 0 && version != 0 && reported.1 != version
        })
    };
    let rule = match (event.kind, known?) {
        (Kind::Inserted, Some(_)) | (Kind::Updated | Kind::Removed | Kind::Expired, None) => Rule::Create,
        (Kind::Updated, Some(_)) if reported.is_none() => Rule::Previous,
        (_, Some(before)) if differs(*before) => Rule::Previous,
        _ => return None,
    };
    Some((rule, format!("{event:?} after {known:?}")))
}

impl Kind {
    fn writes(self) -> bool {
        matches!(self, Self::Inserted | Self::Updated)
    }
}

impl fmt::Display for StreamViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.why)
    }
}
