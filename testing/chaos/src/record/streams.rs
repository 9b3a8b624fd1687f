// SPDX-License-Identifier: Apache-2.0
//! Clients that follow, and are cut off now and then.

use std::sync::Arc;
use std::time::Duration;

use atomix_client::election::Term;
use atomix_client::{Result, Subscription, countermap, indexedmap, list, map, multimap, set, topic, value};
use atomix_conformance::Dice;
use atomix_linearizability::streams::{Event, Kind as EventKind, Stream};
use atomix_linearizability::{Call, election};
use tokio::sync::watch;

use super::last::END;
use super::log::{LAST, Log, open};
use super::replies::{parse, term_answer};
use super::session::{connect, name};
use super::{Kind, Phase};

/// A client that follows one primitive after the other.
#[derive(Debug)]
pub(super) struct Watcher {
    log: Arc<Log>,
    dice: Dice,
    phase: watch::Receiver<Phase>,
}

/// How a stream came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was cut off by its reader, or broke, or ended with a reason.
    Cut,
    /// It has shown the last mark.
    Settled,
    /// The last mark was written, and it did not show it.
    Silent,
}

/// How long a stream may take to show what was done.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream is still read that does not show the last mark.
const QUIET: Duration = Duration::from_millis(300);
/// How long a watcher waits when nothing can be reached.
const PAUSE: Duration = Duration::from_millis(30);

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(log: Arc<Log>, dice: Dice, phase: watch::Receiver<Phase>) -> Self {
        Self { log, dice, phase }
    }

    /// Follows until the last marks have been written, and then until they were shown.
    pub(super) async fn follow(mut self) {
        let followed = |kind: &&Kind| !matches!(kind, Kind::Counter | Kind::Lock | Kind::KeyLock);
        let kinds: Vec<Kind> = self.log.options.kinds.iter().filter(followed).copied().collect();
        while !kinds.is_empty() && *self.phase.borrow() <= Phase::Stops {
            let kind = kinds[self.dice.index(kinds.len())];
            let name = self.dice.roll(self.log.options.names);
            if self.one(kind, name).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Follows a primitive through one stream.
    async fn one(&mut self, kind: Kind, number: u64) -> Result<()> {
        let options = &self.log.options;
        let endpoint = &self.log.endpoints[self.dice.index(self.log.endpoints.len())];
        let client = connect(endpoint, options).await?;
        let (full, tags) = (name(options, kind, number), options.tag.clone());
        let only = (self.dice.roll(3) == 0).then(|| "k0".to_owned());
        let key = only.clone().unwrap_or_default();
        match kind {
            Kind::Map => {
                let map = client.map(full).tags(tags).text().open().await?;
                let events = map.events().key(key).await?;
                self.read(&format!("map/{number}"), only, events, map_events).await;
            }
            Kind::Value => {
                let value = client.value(full).tags(tags).text().open().await?;
                let events = value.events().await?;
                self.read(&format!("value/{number}"), None, events, value_events).await;
            }
            Kind::Set => {
                let set = client.set(full).tags(tags).open().await?;
                self.read(&format!("set/{number}"), None, set.events().await?, set_events).await;
            }
            Kind::List => {
                let list = client.list(full).tags(tags).text().open().await?;
                self.read(&format!("list/{number}"), None, list.events().await?, list_events).await;
            }
            Kind::IndexedMap => {
                let map = client.indexed_map(full).tags(tags).text().open().await?;
                let events = map.events().key(key).await?;
                self.read(&format!("indexedmap/{number}"), only, events, indexed_map_events).await;
            }
            Kind::CounterMap => {
                let map = client.counter_map(full).tags(tags).open().await?;
                let events = map.events().key(key).await?;
                self.read(&format!("countermap/{number}"), only, events, counter_map_events).await;
            }
            Kind::MultiMap => {
                let map = client.multimap(full).tags(tags).open().await?;
                self.read(&format!("multimap/{number}"), None, map.events().await?, multimap_events).await;
            }
            Kind::Topic => {
                let topic = client.topic(full).tags(tags).text().open().await?;
                self.read(&format!("topic/{number}"), None, topic.subscribe().await?, topic_events).await;
            }
            Kind::Election => {
                let election = client.election(full).tags(tags).open().await?;
                let began = self.log.now();
                let terms = election.watch().await?;
                self.read_terms(&format!("election/{number}/"), began, terms).await;
            }
            Kind::Counter | Kind::Lock | Kind::KeyLock => {}
        }
        Ok(())
    }

    /// Reads the terms of an election. Each was the current one at some time between the beginning and its coming.
    async fn read_terms(&mut self, object: &str, began: u64, mut terms: Subscription<Term>) {
        let lifetime = tokio::time::sleep(Duration::from_millis(200 + self.dice.roll(2000)));
        let mut lifetime = std::pin::pin!(lifetime);
        while let Some(Ok(term)) = tokio::select! {
            term = terms.next() => term,
            () = &mut lifetime => None,
        } {
            let during = began..self.log.now();
            self.log.elections.note(object, Call::done(0, during, election::Op::Get, term_answer(term)));
        }
    }

    /// Reads a stream that is acknowledged, and remembers what it has shown.
    async fn read<E>(
        &mut self,
        primitive: &str,
        only: Option<String>,
        mut events: Subscription<E>,
        convert: impl Fn(E) -> Vec<Event>,
    ) {
        let began = self.log.now();
        let mut stream = Stream { client: 0, only, began, settled: 0, events: Vec::new() };
        // Most are cut off; some go on to the end.
        let lifetime = match self.dice.roll(4) {
            0 => Duration::from_hours(1),
            _ => Duration::from_millis(200 + self.dice.roll(3000)),
        };
        let mut cut = std::pin::pin!(tokio::time::sleep(lifetime));
        let pause = if stream.only.is_none() { WAIT_TIMEOUT } else { QUIET };
        let mut silent = std::pin::pin!(async {
            // The sender lives as long as the recording.
            self.phase.wait_for(|phase| *phase == Phase::Ended).await.ok();
            tokio::time::sleep(pause).await;
        });
        let end = loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = &mut cut => break End::Cut,
                () = &mut silent => break End::Silent,
            };
            let Some(Ok(event)) = event else { break End::Cut };
            let at = self.log.now();
            let shown = convert(event).into_iter().map(|event| Event { at, ..event });
            stream.events.extend(shown);
            let last =
                |event: &Event| event.value >= LAST && event.value < 2 * LAST || event.key.starts_with(END);
            if stream.events.last().is_some_and(last) {
                break End::Settled;
            }
        };
        // A stream about one key does not show the last mark of all.
        if end == End::Silent && stream.only.is_none() {
            stream.settled = u64::MAX;
        }
        open(&self.log.streams).entry(primitive.to_owned()).or_default().push(stream);
    }
}

fn event(key: impl Into<String>, kind: EventKind, value: u64, version: u64) -> Event {
    Event { at: 0, key: key.into(), kind, value, version, previous: None }
}

fn gone(expired: bool) -> EventKind {
    if expired { EventKind::Expired } else { EventKind::Removed }
}

type Versioned = atomix_client::Versioned<String>;

fn versioned(key: String, kind: EventKind, value: &Versioned, previous: Option<&Versioned>) -> Event {
    let previous = previous.map(|value| (parse(&value.value), value.version));
    Event { previous, ..event(key, kind, parse(&value.value), value.version) }
}

/// The version of an entry that is gone is that of its last write.
fn versioned_gone(key: String, value: &Versioned, expired: bool) -> Event {
    Event { version: 0, ..versioned(key, gone(expired), value, Some(value)) }
}

fn map_events(seen: map::Event<String>) -> Vec<Event> {
    vec![match seen {
        map::Event::Inserted { key, value } => versioned(key, EventKind::Inserted, &value, None),
        map::Event::Updated { key, value, previous } => {
            versioned(key, EventKind::Updated, &value, previous.as_ref())
        }
        map::Event::Removed { key, value, expired } => versioned_gone(key, &value, expired),
        _ => return Vec::new(),
    }]
}

fn value_events(seen: value::Event<String>) -> Vec<Event> {
    vec![match seen {
        value::Event::Created { value } => versioned(String::new(), EventKind::Inserted, &value, None),
        value::Event::Updated { value, previous } => {
            versioned(String::new(), EventKind::Updated, &value, previous.as_ref())
        }
        value::Event::Deleted { value, expired } => versioned(String::new(), gone(expired), &value, None),
        _ => return Vec::new(),
    }]
}

fn set_events(seen: set::Event) -> Vec<Event> {
    vec![match seen {
        set::Event::Added { element } => event(element, EventKind::Inserted, 0, 0),
        set::Event::Removed { element, expired } => event(element, gone(expired), 0, 0),
        _ => return Vec::new(),
    }]
}

fn multimap_events(seen: multimap::Event) -> Vec<Event> {
    vec![match seen {
        multimap::Event::Added { key, value } => event(format!("{key}/{value}"), EventKind::Inserted, 0, 0),
        multimap::Event::Removed { key, value } => event(format!("{key}/{value}"), EventKind::Removed, 0, 0),
        _ => return Vec::new(),
    }]
}

fn counter_map_events(seen: countermap::Event) -> Vec<Event> {
    vec![match seen {
        countermap::Event::Inserted { key, value } => {
            event(key, EventKind::Inserted, value.cast_unsigned(), 0)
        }
        countermap::Event::Updated { key, value, previous } => {
            let previous = Some((previous.cast_unsigned(), 0));
            Event { previous, ..event(key, EventKind::Updated, value.cast_unsigned(), 0) }
        }
        countermap::Event::Removed { key, value } => event(key, EventKind::Removed, value.cast_unsigned(), 0),
        _ => return Vec::new(),
    }]
}

/// An item of a list is a key of its own.
fn list_events(seen: list::Event<String>) -> Vec<Event> {
    let item = |kind, mark: u64| event(mark.to_string(), kind, mark, 0);
    let inserted = |value: String| item(EventKind::Inserted, parse(&value));
    let removed = |value: String| item(EventKind::Removed, parse(&value));
    match seen {
        list::Event::Appended { value, .. } | list::Event::Inserted { value, .. } => vec![inserted(value)],
        list::Event::Updated { value, previous, .. } => vec![removed(previous), inserted(value)],
        list::Event::Removed { value, .. } => vec![removed(value)],
        _ => Vec::new(),
    }
}

fn indexed_map_events(seen: indexedmap::Event<String>) -> Vec<Event> {
    vec![match seen {
        indexedmap::Event::Inserted { key, value, .. } => versioned(key, EventKind::Inserted, &value, None),
        indexedmap::Event::Updated { key, value, previous, .. } => {
            versioned(key, EventKind::Updated, &value, previous.as_ref())
        }
        indexedmap::Event::Removed { key, value, expired, .. } => versioned_gone(key, &value, expired),
        _ => return Vec::new(),
    }]
}

/// A message is a key of its own, and its offset its version.
fn topic_events(message: topic::Message<String>) -> Vec<Event> {
    let mark = parse(&message.payload);
    vec![event(message.payload, EventKind::Inserted, mark, message.offset)]
}
