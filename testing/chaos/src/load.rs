// SPDX-License-Identifier: Apache-2.0
//! Clients that work until their server dies, and remember every answer.
//!
//! A write has an outcome for its caller: done, refused (certainly not applied), or unknown. What reads and watches showed
//! is remembered as well: it must not be taken back either. [`crate::books`] judges both afterwards.
#![allow(clippy::disallowed_methods, reason = "the load of a real server, in real time")]
#![allow(clippy::wildcard_enum_match_arm, reason = "of the many kinds of errors only some promise something")]

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atomix_client::map::{Committed, Operation};
use atomix_client::{
    Client, Counter, Election, Error, IndexedMap, Kind, List, Lock, Map, Result, Set, Topic, Value,
    indexedmap, list,
};
use atomix_conformance::Dice;
use tokio::task::JoinHandle;

use crate::Server;

/// What the caller of a write knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Done,
    /// The answer was lost, or says that nobody knows.
    Unknown,
    /// It was certainly not applied.
    Refused,
}

/// A write, and what became of it.
#[derive(Debug, Clone)]
pub struct Write {
    /// Different for each write of a run.
    pub mark: String,
    /// What it was to do.
    pub deed: Deed,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was sent.
    pub began: Instant,
    /// When it was answered, or given up.
    pub ended: Instant,
}

/// What a write does. What the answer told is 0 unless there was one.
#[derive(Debug, Clone)]
pub enum Deed {
    /// Appends its mark to the list of all.
    Append,
    /// Appends its mark to the indexed map of all, and got this index.
    Index(u64),
    /// Moves money between two accounts and leaves a receipt under its mark, all in one transaction.
    Transfer(Transfer),
    /// Adds its mark to the set of all.
    Add,
    /// Removes the mark of an earlier write from the set.
    Remove(String),
    /// Adds one to the counter of all, which was this afterwards.
    Count(i64),
    /// Sets the cell of this worker to a number, which got this version.
    Set(usize, u64, u64),
    /// Publishes.
    Publish,
    /// Puts its mark into the map of leases, for this time.
    Lease(Duration),
}

/// A movement of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The accounts.
    pub from: usize,
    /// The accounts.
    pub to: usize,
    /// How much.
    pub amount: i64,
}

/// Something that was revealed.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The list has this mark.
    Listed(String),
    /// The indexed map has this mark at this index.
    Indexed(String, u64),
    /// The counter was this.
    Counted(i64),
    /// The cell of this worker was this, in this version.
    Cell(usize, u64, u64),
    /// The account was this, in this version.
    Account(usize, i64, u64),
    /// A message had this offset.
    Offset(u64),
    /// Somebody got the lock with this token.
    Token(u64),
    /// This was the term of the election.
    Term(u64),
}

/// What the clients of one round remember.
#[derive(Debug, Default)]
pub struct Diary {
    /// The writes of each worker, in its order.
    pub writes: Vec<Vec<Write>>,
    /// What was revealed, and when.
    pub facts: Vec<(Instant, Fact)>,
    /// How often which error was answered.
    pub errors: BTreeMap<String, u64>,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<Write>>>,
    watchers: Vec<JoinHandle<()>>,
    notes: Notes,
}

/// What all clients write down.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Diary>>);

/// One primitive of each kind, the same for all.
#[derive(Debug)]
pub(crate) struct All {
    pub(crate) list: List<String>,
    pub(crate) log: IndexedMap<String>,
    pub(crate) bank: Map<String>,
    pub(crate) members: Set,
    pub(crate) hits: Counter,
    pub(crate) cells: Vec<Value<String>>,
    pub(crate) news: Topic<String>,
    pub(crate) leases: Map<String>,
    pub(crate) door: Lock,
    pub(crate) boss: Election,
}

struct Worker {
    me: usize,
    round: u64,
    all: All,
    dice: Dice,
    notes: Notes,
    writes: Vec<Write>,
    /// Elements that this worker has added and may remove.
    added: Vec<String>,
    number: u64,
}

/// How many workers there are, each with a connection of its own.
pub const WORKERS: usize = 8;
/// How many accounts the bank has.
pub const ACCOUNTS: usize = 8;
/// How long leases are.
const LEASES: [Duration; 4] =
    [Duration::from_millis(30), Duration::from_millis(300), Duration::from_secs(3), Duration::from_secs(20)];

// === impl Outcome ===

impl Outcome {
    /// Takes the client at its word.
    pub fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(error) => match error.kind() {
                Kind::Unavailable | Kind::Conflict | Kind::NotFound | Kind::AlreadyExists | Kind::Invalid => {
                    Self::Refused
                }
                _ => Self::Unknown,
            },
        }
    }
}

// === impl Load ===

impl Load {
    /// Lets the workers of a round begin.
    pub async fn start(server: &Server, round: u64, dice: &mut Dice) -> Self {
        let (stop, notes) = (Arc::new(AtomicBool::new(false)), Notes::default());
        let mut load = Self { stop, workers: Vec::new(), watchers: Vec::new(), notes };
        for me in 0..WORKERS {
            let client = client(server).await;
            let (stop, notes, dice) =
                (Arc::clone(&load.stop), load.notes.clone(), Dice::new(dice.roll(u64::MAX)));
            load.workers.push(tokio::spawn(async move {
                let Ok(all) = All::open(&client).await else { return Vec::new() };
                let mut worker =
                    Worker { me, round, all, dice, notes, writes: Vec::new(), added: Vec::new(), number: 0 };
                while !stop.load(Ordering::Relaxed) {
                    worker.act().await;
                }
                worker.writes
            }));
        }
        load.watch(server).await;
        load
    }

    /// Lets the workers begin nothing new.
    pub fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the workers, after their server has died or when they have done enough.
    pub async fn stop(self) -> Diary {
        self.halt();
        let mut writes = Vec::new();
        for worker in self.workers {
            writes.push(worker.await.expect("workers do not fail"));
        }
        for watcher in self.watchers {
            watcher.abort();
            // It was stopped, or had ended.
            drop(watcher.await);
        }
        Diary { writes, ..mem::take(&mut *self.notes.lock()) }
    }

    /// Writes down what a client sees that only looks.
    async fn watch(&mut self, server: &Server) {
        let client = client(server).await;
        let all = Arc::new(All::open(&client).await.expect("the server is fresh"));
        let (on, notes) = (Arc::clone(&all), self.notes.clone());
        self.watchers.push(tokio::spawn(async move {
            let Ok(mut events) = on.list.events().await else { return };
            while let Some(Ok(event)) = events.next().await {
                if let list::Event::Appended { value, .. } = event {
                    notes.fact(Fact::Listed(unpadded(&value)));
                }
            }
        }));
        let (on, notes) = (Arc::clone(&all), self.notes.clone());
        self.watchers.push(tokio::spawn(async move {
            let Ok(mut events) = on.log.events().await else { return };
            while let Some(Ok(event)) = events.next().await {
                if let indexedmap::Event::Inserted { key, index, .. } = event {
                    notes.fact(Fact::Indexed(key, index));
                }
            }
        }));
        let (on, notes) = (Arc::clone(&all), self.notes.clone());
        self.watchers.push(tokio::spawn(async move {
            let Ok(mut messages) = on.news.subscribe().await else { return };
            while let Some(Ok(message)) = messages.next().await {
                notes.fact(Fact::Offset(message.offset));
            }
        }));
        let (on, notes) = (Arc::clone(&all), self.notes.clone());
        self.watchers.push(tokio::spawn(async move {
            let Ok(mut values) = on.cells[0].watch().await else { return };
            while let Some(Ok(value)) = values.next().await {
                notes.fact(Fact::Cell(0, number(&value.value), value.version));
            }
        }));
        let (on, notes) = (all, self.notes.clone());
        self.watchers.push(tokio::spawn(async move {
            while let Ok(value) = on.hits.get().await {
                notes.fact(Fact::Counted(value));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
    }
}

/// Makes a client that tries everything once: the outcome of each attempt counts.
pub(crate) async fn client(server: &Server) -> Client {
    Client::builder()
        .endpoint(format!("http://{}", server.listen()))
        .control(format!("http://{}", server.control()))
        .retry_budget(Duration::ZERO)
        .connect()
        .await
        .expect("the server answers")
}

// === impl Notes ===

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Diary> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fact(&self, fact: Fact) {
        self.lock().facts.push((Instant::now(), fact));
    }

    fn error(&self, error: &Error) {
        let message = error.message().split(':').next().unwrap_or_default();
        let name = format!("{}, {}, {message}", error.kind(), error.reason().unwrap_or("no reason"));
        *self.lock().errors.entry(name).or_default() += 1;
    }
}

// === impl All ===

impl All {
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        let mut cells = Vec::new();
        for worker in 0..WORKERS {
            cells.push(client.value(format!("cell-{worker}")).text().open().await?);
        }
        Ok(Self {
            list: client.list("list").text().open().await?,
            log: client.indexed_map("log").text().open().await?,
            bank: client.map("bank").text().open().await?,
            members: client.set("members").open().await?,
            hits: client.counter("hits").open().await?,
            cells,
            news: client.topic("news").text().open().await?,
            leases: client.map("leases").text().open().await?,
            door: client.lock("door").open().await?,
            boss: client.election("boss").open().await?,
        })
    }
}

// === impl Worker ===

impl Worker {
    /// Does one thing. A failure is noted, and gives others a moment.
    async fn act(&mut self) {
        let failed = match self.dice.roll(12) {
            0 | 1 => self.append().await,
            2 | 3 => self.index().await,
            4 | 5 => self.transfer().await,
            6 => self.join_or_leave().await,
            7 => self.count().await,
            8 => self.set().await,
            9 => self.publish_or_lease().await,
            10 => self.lock().await,
            _ => self.run_for_boss().await,
        };
        let Err(error) = failed else { return };
        self.notes.error(&error);
        if error.kind() != Kind::Conflict {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn mark(&self) -> String {
        format!("r{}-w{}-{}", self.round, self.me, self.writes.len())
    }

    fn note<T>(&mut self, began: Instant, deed: Deed, result: Result<T>) -> Result<()> {
        let write =
            Write { mark: self.mark(), deed, outcome: Outcome::of(&result), began, ended: Instant::now() };
        self.writes.push(write);
        result.map(drop)
    }

    async fn append(&mut self) -> Result<()> {
        let (began, value) = (Instant::now(), self.padded(&self.mark()));
        let result = self.all.list.append(&value).await;
        self.note(began, Deed::Append, result)
    }

    async fn index(&mut self) -> Result<()> {
        let (began, value) = (Instant::now(), self.padded(&self.mark()));
        let result = self.all.log.append(self.mark(), &value).await;
        let index = result.as_ref().map_or(0, |entry| entry.index);
        self.note(began, Deed::Index(index), result)
    }

    async fn transfer(&mut self) -> Result<()> {
        let from = self.dice.index(ACCOUNTS);
        let to = (from + 1 + self.dice.index(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = 1 + i64::try_from(self.dice.roll(5)).expect("small");
        let mut puts = Vec::new();
        for (account, change) in [(from, -amount), (to, amount)] {
            let Some(found) = self.all.bank.get(account_key(account)).await? else { continue };
            let balance = balance(&found.value);
            self.notes.fact(Fact::Account(account, balance, found.version));
            let put = Operation::put(account_key(account), (balance + change).to_string());
            puts.push((account, balance + change, put.if_version(found.version)));
        }
        let transfer = Transfer { from, to, amount };
        let receipt = Operation::insert(self.mark(), self.padded(&transfer.receipt()));
        let (began, accounts): (_, Vec<_>) =
            (Instant::now(), puts.iter().map(|(account, balance, _)| (*account, *balance)).collect());
        let operations = puts.into_iter().map(|(_, _, put)| put).chain([receipt]);
        let result = self.all.bank.commit(operations).await;
        for ((account, balance), done) in accounts.into_iter().zip(result.iter().flatten()) {
            if let Committed::Put(written) = done {
                self.notes.fact(Fact::Account(account, balance, written.version));
            }
        }
        self.note(began, Deed::Transfer(transfer), result)
    }

    async fn join_or_leave(&mut self) -> Result<()> {
        let began = Instant::now();
        if self.added.len() < 3 {
            let result = self.all.members.add(self.mark()).await;
            if result.is_ok() {
                self.added.push(self.mark());
            }
            return self.note(began, Deed::Add, result);
        }
        let member = self.added.remove(0);
        let result = self.all.members.remove(member.clone()).await;
        self.note(began, Deed::Remove(member), result)
    }

    async fn count(&mut self) -> Result<()> {
        let began = Instant::now();
        let result = self.all.hits.increment(1).await;
        let value = result.as_ref().map_or(0, |value| *value);
        self.note(began, Deed::Count(value), result)
    }

    async fn set(&mut self) -> Result<()> {
        self.number += 1;
        let number = self.round * 1_000_000 + self.number;
        let (began, value) = (Instant::now(), self.padded(&number.to_string()));
        let result = self.all.cells[self.me].set(&value).await;
        let version = result.as_ref().map_or(0, |written| written.version);
        self.note(began, Deed::Set(self.me, number, version), result)
    }

    async fn publish_or_lease(&mut self) -> Result<()> {
        let (began, value) = (Instant::now(), self.mark());
        if self.dice.roll(2) == 0 {
            let result = self.all.news.publish(&value).await;
            return self.note(began, Deed::Publish, result);
        }
        let ttl = LEASES[self.dice.index(LEASES.len())];
        let result = self.all.leases.put(self.mark(), &value).ttl(ttl).await;
        self.note(began, Deed::Lease(ttl), result)
    }

    async fn lock(&mut self) -> Result<()> {
        let Some(guard) = self.all.door.try_acquire().await? else { return Ok(()) };
        self.notes.fact(Fact::Token(guard.token()));
        tokio::time::sleep(Duration::from_micros(self.dice.roll(3000))).await;
        guard.release().await
    }

    async fn run_for_boss(&mut self) -> Result<()> {
        let name = format!("w{}", self.me);
        let term = match self.dice.roll(3) {
            0 => self.all.boss.withdraw(name).await?,
            _ => self.all.boss.enter(name).await?,
        };
        self.notes.fact(Fact::Term(term.number));
        Ok(())
    }

    /// Makes text longer, so that logs and snapshots have something to do.
    fn padded(&mut self, text: &str) -> String {
        let len = [0, 10, 600, 5000][self.dice.index(4)];
        format!("{text} {}", ".".repeat(len))
    }
}

/// Returns the key of an account.
pub(crate) fn account_key(account: usize) -> String {
    format!("account-{account}")
}

/// Reads the balance of an account.
pub(crate) fn balance(text: &str) -> i64 {
    text.parse().expect("a balance is a number")
}

/// Takes off what made text longer.
pub(crate) fn unpadded(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Reads the number of a cell.
pub(crate) fn number(text: &str) -> u64 {
    unpadded(text).parse().expect("a cell holds a number")
}

// === impl Transfer ===

impl Transfer {
    fn receipt(self) -> String {
        let Self { from, to, amount } = self;
        format!("{from}>{to}:{amount}")
    }

    /// Reads a receipt.
    pub(crate) fn read(text: &str) -> Self {
        let text = unpadded(text);
        let mut words =
            text.split(['>', ':']).map(|word| word.parse::<i64>().expect("a receipt has numbers"));
        let mut next = || words.next().expect("a receipt has three numbers");
        let mut account = || usize::try_from(next()).expect("small");
        let (from, to) = (account(), account());
        Self { from, to, amount: next() }
    }
}
