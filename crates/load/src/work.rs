// SPDX-License-Identifier: Apache-2.0
//! Operations on a runtime.

use std::str::FromStr;
use std::sync::Arc;

use atomix_env::Env;
use atomix_proto::runtime::PrimitiveId;
use atomix_proto::{counter, election, lock, map, topic, value};
use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use prost::Message;

use crate::channel::{Channel, Method, Stream, frame};
use crate::drive::Target;
use crate::failure::Failure;
use crate::fan_out::Feed;
use crate::hand_over::Contender;
use crate::succession::Candidate;

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `Counter.Increment`; each key is a counter of its own.
    Increment,
    /// `Map.Get`
    Get,
    /// `Map.Put`
    Put,
    /// `Map.Remove`, which finds nothing when the key is gone already.
    Remove,
    /// `Value.Set`
    Set,
    /// `Topic.Publish`
    Publish,
}

/// Kinds of calls, each with its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix(Vec<(Op, u32)>);

/// The primitives that calls address.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Begins the names of the primitives.
    pub name: String,
    /// Tags of the primitives, for routes.
    pub tags: Vec<String>,
    /// The number of keys, or counters.
    pub keys: u64,
    /// The size of values and messages.
    pub value_bytes: usize,
}

/// Calls of a mix over one connection.
#[derive(Debug)]
pub struct Work {
    channel: Channel,
    shared: Arc<Shared>,
}

/// A contender for the lock of a [`Subject`], on its own connection, because the connection owns a lock.
#[derive(Debug)]
pub struct Waiter {
    channel: Channel,
    acquire: (Method, Bytes),
    release: (Method, Bytes),
}

/// A candidate in the election of a [`Subject`], on its own connection, because the connection owns a candidacy.
#[derive(Debug)]
pub struct Entrant {
    channel: Channel,
    name: String,
    enter: (Method, Bytes),
    withdraw: (Method, Bytes),
    terms: Terms,
}

/// The terms that an entrant sees.
#[derive(Debug)]
struct Terms {
    watch: Stream,
    newest: election::Term,
    /// The last term in which the entrant led. What is shown of it later is old.
    left: u64,
}

/// The events of the map of a [`Subject`].
#[derive(Debug)]
pub struct Watcher(Stream);

#[derive(Debug)]
struct Shared {
    subject: Subject,
    mix: Mix,
    weight: u32,
    value: Bytes,
    methods: Methods,
}

#[derive(Debug)]
struct Methods {
    increment: Method,
    get: Method,
    put: Method,
    remove: Method,
    set: Method,
    publish: Method,
}

// === impl Mix ===

impl Mix {
    /// Makes a mix of one kind of call.
    pub fn only(op: Op) -> Self {
        Self(vec![(op, 1)])
    }

    fn has(&self, ops: &[Op]) -> bool {
        self.0.iter().any(|(op, _)| ops.contains(op))
    }
}

impl FromStr for Mix {
    type Err = String;

    /// Reads `get=9,put=1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = text.split(',').map(|kind| {
            let (op, weight) = kind.split_once('=').unwrap_or((kind, "1"));
            let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
            let weight = weight.ok_or_else(|| format!("`{kind}` has no weight from 1 to 1000000"))?;
            let op = match op {
                "increment" => Op::Increment,
                "get" => Op::Get,
                "put" => Op::Put,
                "remove" => Op::Remove,
                "set" => Op::Set,
                "publish" => Op::Publish,
                _ => {
                    return Err(format!("`{op}` is not one of increment, get, put, remove, set, publish"));
                }
            };
            Ok((op, weight))
        });
        kinds.collect::<Result<_, _>>().map(Self)
    }
}

// === impl Subject ===

impl Subject {
    /// Connects, makes the primitives that the mix needs, and puts every key that it may read.
    pub async fn work(
        &self,
        env: &Env,
        server: &str,
        connections: usize,
        mix: Mix,
    ) -> Result<Vec<Work>, Failure> {
        let shared = Arc::new(Shared {
            weight: mix.0.iter().map(|(_, weight)| weight).sum(),
            value: vec![b'v'; self.value_bytes].into(),
            methods: Methods::new(),
            subject: self.clone(),
            mix,
        });
        let channels = try_join_all((0..connections).map(|_| Channel::connect(env, server))).await?;
        let works = channels.into_iter().map(|channel| Work { channel, shared: Arc::clone(&shared) });
        let works: Vec<Work> = works.collect();
        works[0].prepare().await?;
        Ok(works)
    }

    /// Connects so many contenders for one lock.
    pub async fn waiters(&self, env: &Env, server: &str, waiters: usize) -> Result<Vec<Waiter>, Failure> {
        let id = self.id("");
        let create = Method::new("/atomix.runtime.lock.v1.Lock/Create");
        let acquire = Method::new("/atomix.runtime.lock.v1.Lock/Lock");
        let release = Method::new("/atomix.runtime.lock.v1.Lock/Unlock");
        let channels = try_join_all((0..waiters).map(|_| Channel::connect(env, server))).await?;
        let mut waiters = Vec::new();
        for channel in channels {
            let request = lock::CreateRequest { id: id.clone(), tags: self.tags.clone() };
            channel.unary(&create, frame(&request)).await?;
            waiters.push(Waiter {
                channel,
                acquire: (acquire.clone(), frame(&lock::LockRequest { id: id.clone(), timeout: None })),
                release: (release.clone(), frame(&lock::UnlockRequest { id: id.clone() })),
            });
        }
        Ok(waiters)
    }

    /// Connects a candidate and opens its watch.
    pub async fn entrant(&self, env: &Env, server: &str, name: &str) -> Result<Entrant, Failure> {
        let (id, candidate) = (self.id(""), name.to_owned());
        let method = |name| Method::new(&format!("/atomix.runtime.election.v1.LeaderElection/{name}"));
        let channel = Channel::connect(env, server).await?;
        let create = election::CreateRequest { id: id.clone(), tags: self.tags.clone() };
        channel.unary(&method("Create"), frame(&create)).await?;
        let watch = election::WatchRequest { id: id.clone() };
        let watch = channel.stream(&method("Watch"), frame(&watch)).await?;
        let enter = election::EnterRequest { id: id.clone(), candidate: candidate.clone() };
        let withdraw = election::WithdrawRequest { id, candidate: candidate.clone() };
        Ok(Entrant {
            channel,
            name: candidate,
            enter: (method("Enter"), frame(&enter)),
            withdraw: (method("Withdraw"), frame(&withdraw)),
            terms: Terms { watch, newest: election::Term::default(), left: 0 },
        })
    }

    /// Opens watches of all events of the map that `work` has made, shared out among the connections of `works`.
    pub async fn watchers(&self, works: &[Work], watchers: usize) -> Result<Vec<Watcher>, Failure> {
        let method = Method::new("/atomix.runtime.map.v1.Map/Events");
        let request = frame(&map::EventsRequest { id: self.id(""), key: String::new() });
        let open = async |at: usize| {
            let mut stream = works[at % works.len()].channel.stream(&method, request.clone()).await?;
            // The first message confirms that the watch has begun.
            stream.arrived().await?;
            Ok(Watcher(stream))
        };
        try_join_all((0..watchers).map(open)).await
    }

    #[allow(clippy::unnecessary_wraps, reason = "messages want an option")]
    fn id(&self, suffix: &str) -> Option<PrimitiveId> {
        Some(PrimitiveId { name: format!("{}{suffix}", self.name) })
    }

    fn counter(&self, at: u64) -> Option<PrimitiveId> {
        self.id(&format!("-{at}"))
    }
}

// === impl Methods ===

impl Methods {
    fn new() -> Self {
        Self {
            increment: Method::new("/atomix.runtime.counter.v1.Counter/Increment"),
            get: Method::new("/atomix.runtime.map.v1.Map/Get"),
            put: Method::new("/atomix.runtime.map.v1.Map/Put"),
            remove: Method::new("/atomix.runtime.map.v1.Map/Remove"),
            set: Method::new("/atomix.runtime.value.v1.Value/Set"),
            publish: Method::new("/atomix.runtime.topic.v1.Topic/Publish"),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Returns a value that differs from the one before: to put what is there already changes nothing, and is cheap.
    fn value(&self, chance: u64) -> Bytes {
        let mut value = BytesMut::from(&self.value[..]);
        for (byte, drawn) in value.iter_mut().zip(chance.to_be_bytes()) {
            *byte = drawn;
        }
        value.freeze()
    }
}

// === impl Work ===

impl Work {
    async fn prepare(&self) -> Result<(), Failure> {
        let Shared { subject, mix, .. } = &*self.shared;
        let (id, tags) = (subject.id(""), subject.tags.clone());
        if mix.has(&[Op::Increment]) {
            let create = Method::new("/atomix.runtime.counter.v1.Counter/Create");
            let counter = |at| counter::CreateRequest { id: subject.counter(at), tags: tags.clone() };
            self.channel.each(&create, subject.keys, |at| frame(&counter(at))).await?;
        }
        if mix.has(&[Op::Get, Op::Put, Op::Remove]) {
            let create = Method::new("/atomix.runtime.map.v1.Map/Create");
            let request = frame(&map::CreateRequest { id: id.clone(), tags: tags.clone() });
            self.channel.unary(&create, request).await?;
        }
        if mix.has(&[Op::Get]) {
            self.channel
                .each(&self.shared.methods.put, subject.keys, |at| self.request(Op::Put, at, at))
                .await?;
        }
        if mix.has(&[Op::Set]) {
            let create = Method::new("/atomix.runtime.value.v1.Value/Create");
            let request = frame(&value::CreateRequest { id: id.clone(), tags: tags.clone() });
            self.channel.unary(&create, request).await?;
        }
        if mix.has(&[Op::Publish]) {
            let create = Method::new("/atomix.runtime.topic.v1.Topic/Create");
            self.channel.unary(&create, frame(&topic::CreateRequest { id, tags })).await?;
        }
        Ok(())
    }

    fn request(&self, op: Op, at: u64, chance: u64) -> Bytes {
        let subject = &self.shared.subject;
        let (id, key) = (subject.id(""), || format!("key-{at:012}"));
        let value = || self.shared.value(chance);
        match op {
            Op::Increment => frame(&counter::IncrementRequest { id: subject.counter(at), delta: 1 }),
            Op::Get => frame(&map::GetRequest { id, key: key() }),
            Op::Put => frame(&map::PutRequest { id, key: key(), value: value(), ttl: None, prev_version: 0 }),
            Op::Remove => frame(&map::RemoveRequest { id, key: key(), prev_version: 0 }),
            Op::Set => frame(&value::SetRequest { id, value: value(), ttl: None }),
            Op::Publish => frame(&topic::PublishRequest { id, payload: value() }),
        }
    }
}

impl Target for Work {
    async fn call(&self, chance: u64) -> Result<(), Failure> {
        let Shared { subject, mix, weight, methods, .. } = &*self.shared;
        // The lower half chooses the call, the upper half the key, so that the two do not depend on each other.
        let (mut ticket, at) = (low(chance) % weight, (chance >> 32) % subject.keys);
        let op = mix.0.iter().find(|(_, weight)| {
            let found = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            found
        });
        let (op, _) = op.expect("a ticket is below the sum of all weights");
        let method = match op {
            Op::Increment => &methods.increment,
            Op::Get => &methods.get,
            Op::Put => &methods.put,
            Op::Remove => &methods.remove,
            Op::Set => &methods.set,
            Op::Publish => &methods.publish,
        };
        match self.channel.unary(method, self.request(*op, at, chance)).await {
            // Another caller has removed it.
            Err(Failure::Status(NOT_FOUND, _))
                if matches!(op, Op::Get | Op::Remove) && mix.has(&[Op::Remove]) =>
            {
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }
}

/// The gRPC status of what is not there.
const NOT_FOUND: u16 = 5;

fn low(bits: u64) -> u32 {
    (bits & u64::from(u32::MAX)).try_into().expect("32 bits")
}

// === impl Waiter, Entrant, Watcher ===

impl Contender for Waiter {
    async fn acquire(&self) -> Result<(), Failure> {
        self.channel.unary(&self.acquire.0, self.acquire.1.clone()).await.map(drop)
    }

    async fn release(&self) -> Result<(), Failure> {
        self.channel.unary(&self.release.0, self.release.1.clone()).await.map(drop)
    }
}

impl Entrant {
    /// Waits until it is shown that `leader` leads.
    pub async fn led_by(&mut self, leader: &str) -> Result<(), Failure> {
        self.terms.until(|term| term.leader == leader).await
    }
}

impl Candidate for Entrant {
    /// Returns when its watch shows it, and so has nothing left to show of what was before.
    async fn enter(&mut self) -> Result<(), Failure> {
        self.channel.unary(&self.enter.0, self.enter.1.clone()).await?;
        self.terms.until(|term| term.leader == self.name || term.candidates.contains(&self.name)).await
    }

    async fn lead(&mut self) -> Result<(), Failure> {
        self.terms.until(|term| term.leader == self.name).await
    }

    async fn withdraw(&mut self) -> Result<(), Failure> {
        self.terms.left = self.terms.newest.term;
        self.channel.unary(&self.withdraw.0, self.withdraw.1.clone()).await.map(drop)
    }
}

impl Terms {
    async fn until(&mut self, holds: impl Fn(&election::Term) -> bool) -> Result<(), Failure> {
        while self.newest.term <= self.left || !holds(&self.newest) {
            let mut newest = None;
            self.watch.read(|message| newest = Some(message)).await?;
            let newest = newest.ok_or_else(|| Failure::Broken("the watch ended".to_owned()))?;
            let answer = election::WatchResponse::decode(newest);
            let answer = answer.map_err(|error| Failure::Broken(error.to_string()))?;
            self.newest = answer.term.unwrap_or_default();
        }
        Ok(())
    }
}

impl Feed for Watcher {
    async fn next(&mut self) -> Result<usize, Failure> {
        self.0.arrived().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read() {
        assert_eq!("put".parse(), Ok(Mix::only(Op::Put)));
        assert_eq!("get=9,put=1".parse(), Ok(Mix(vec![(Op::Get, 9), (Op::Put, 1)])));
        for wrong in ["", "get=0", "get=x", "take=1", "get=1,,put=1"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }
}
