// SPDX-License-Identifier: Apache-2.0
//! The judge: what must be there after a crash, may be there, and must not.
#![allow(clippy::disallowed_methods, reason = "leases are judged in real time")]
#![allow(clippy::wildcard_enum_match_arm, reason = "each judgement is about some of the deeds and facts")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use atomix_client::Result;
use atomix_client::map::Operation;
use atomix_conformance::Dice;

use crate::Server;
use crate::load::{
    ACCOUNTS, All, Deed, Diary, Fact, Load, Outcome, Transfer, WORKERS, Write, account_key, balance, client,
    number, unpadded,
};

/// What is known of the state of a server between two rounds.
#[derive(Debug, Default)]
pub struct Books {
    round: u64,
    balances: [i64; ACCOUNTS],
    /// Versions of the accounts.
    versions: [u64; ACCOUNTS],
    hits: i64,
    /// Number and version of each cell.
    cells: [(u64, u64); WORKERS],
    /// What the indexed map keeps from round to round, and the highest index ever seen.
    log: Vec<(String, u64)>,
    last_index: u64,
    members: BTreeSet<String>,
    leases: Vec<Lease>,
    /// The greatest ones ever seen.
    token: u64,
    term: u64,
    offset: u64,
    /// What was judged so far.
    pub tally: Tally,
}

/// What was judged.
#[derive(Debug, Default)]
pub struct Tally {
    /// Rounds.
    pub rounds: u64,
    /// Writes that were answered and had to be there.
    pub acknowledged: u64,
    /// Facts that readers and watches had been shown and that had to be true still.
    pub revealed: u64,
    /// Writes of unknown outcome: of those that leave a mark, how many were there, and how many not.
    pub unknown_there: u64,
    /// See above.
    pub unknown_gone: u64,
    /// Writes that were refused and had to leave nothing.
    pub refused: u64,
    /// Answered writes within the interval before a power cut, and how many of those were gone.
    pub late: u64,
    /// See above.
    pub late_gone: u64,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
    /// What was wrong.
    pub wrong: Vec<String>,
}

/// How a server has ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// When it was dead.
    pub dead: Instant,
    /// What was answered after this may be gone: the power was cut, and syncs have an interval.
    pub synced: Option<Instant>,
}

#[derive(Debug)]
struct Lease {
    mark: String,
    /// The entry must be there before.
    earliest: Option<Instant>,
    /// The entry must be gone after.
    latest: Instant,
}

/// What a write of this fate means for the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Must,
    May,
    Never,
}

/// The judgement of one round.
struct Court<'a> {
    end: End,
    diary: &'a Diary,
    tally: &'a mut Tally,
    round: u64,
    /// The earliest end of a write that was answered and is gone, and the latest beginning of one that is there.
    gone: Option<(Instant, String)>,
    there: Option<(Instant, String)>,
}

/// Entries of the indexed map after which it is cleared.
const LOG_MAX: usize = 1500;
/// What an account holds in the beginning.
const MONEY: i64 = 100;
/// How exactly a server times what expires.
const EXACT: Duration = Duration::from_millis(25);

// === impl Books ===

impl Books {
    /// Opens the books of an empty server: nobody has anything, and each account gets its money.
    pub async fn open(server: &Server) -> Result<Self> {
        let client = client(server).await;
        let all = All::open(&client).await?;
        let mut books = Self { balances: [MONEY; ACCOUNTS], ..Self::default() };
        for account in 0..ACCOUNTS {
            let put = all.bank.put(account_key(account), &MONEY.to_string()).await?;
            books.versions[account] = put.version;
        }
        Ok(books)
    }

    /// Lets clients work, until something is done to their server.
    pub async fn load(&mut self, server: &Server, dice: &mut Dice) -> Load {
        self.round += 1;
        Load::start(server, self.round, dice).await
    }

    /// Judges a round by what the server shows that was started after the last one had ended. Then tidies up, so that the
    /// next round can be judged as quickly.
    pub async fn judge(&mut self, server: &Server, end: End, diary: Diary) -> Result<()> {
        let mut tally = std::mem::take(&mut self.tally);
        let mut court =
            Court { end, diary: &diary, tally: &mut tally, round: self.round, gone: None, there: None };
        let judged = self.judge_all(server, &mut court).await;
        court.order_of_all();
        tally.rounds += 1;
        for (name, count) in diary.errors {
            *tally.errors.entry(name).or_default() += count;
        }
        self.tally = tally;
        judged
    }

    async fn judge_all(&mut self, server: &Server, court: &mut Court<'_>) -> Result<()> {
        let client = client(server).await;
        // What is overdue must be gone before the first answer, so this comes first.
        let leases = client.map("leases").text().open().await?;
        let asked = Instant::now();
        let found = leases.entries().await?.collect().await?;
        let marks = found.into_iter().map(|entry| entry.key).collect();
        self.leases(court, &marks, asked, Instant::now());

        let all = All::open(&client).await?;
        self.held(court, &all).await?;
        let list = all.list.items().await?.collect().await?;
        let list: Vec<String> = list.into_iter().map(|item| unpadded(&item.value)).collect();
        court.sequence("list", &list, |deed| matches!(deed, Deed::Append));
        for (at, fact) in &court.diary.facts {
            if let Fact::Listed(mark) = fact
                && court.counts(*at)
                && !list.contains(mark)
            {
                court.tally.wrong.push(format!("list: {mark} was watched and is gone"));
            }
        }
        all.list.clear().await?;
        self.log(court, &all).await?;
        self.bank(court, &all).await?;
        self.members(court, &all).await?;
        self.numbers(court, &all).await
    }

    /// Entries that expire.
    fn leases(&mut self, court: &mut Court<'_>, found: &HashSet<String>, asked: Instant, reported: Instant) {
        for write in court.diary.writes.iter().flatten() {
            let Deed::Lease(ttl) = write.deed else { continue };
            let fate = court.fate(write);
            if fate == Fate::Never {
                court.never("leases", write, found.contains(&write.mark));
                continue;
            }
            let ended = if write.outcome == Outcome::Done { write.ended } else { court.end.dead };
            let earliest = (fate == Fate::Must).then(|| write.began + ttl);
            court.tally.acknowledged += u64::from(fate == Fate::Must);
            self.leases.push(Lease { mark: write.mark.clone(), earliest, latest: ended + ttl });
        }
        let wrong = &mut court.tally.wrong;
        let known: HashSet<&str> = self.leases.iter().map(|lease| lease.mark.as_str()).collect();
        for mark in found.iter().filter(|mark| !known.contains(mark.as_str())) {
            wrong.push(format!("leases: {mark} came from nowhere or had expired long ago"));
        }
        for lease in &mut self.leases {
            let there = found.contains(&lease.mark);
            if there && lease.latest + EXACT < asked {
                wrong.push(format!("leases: {} is shown {:?} late", lease.mark, asked - lease.latest));
            }
            if !there && lease.earliest.is_some_and(|earliest| earliest > reported + EXACT) {
                wrong.push(format!("leases: {} is lost", lease.mark));
            }
            // What may have been there or not is decided now.
            lease.earliest = there.then(|| lease.earliest.unwrap_or_else(|| lease.latest.min(reported)));
        }
        // Those that are over, or not there, are kept a while, to see that they do not come back.
        self.leases.retain(|lease| lease.latest + Duration::from_secs(2) > reported);
    }

    /// Locks and candidacies of the dead are free, tokens and terms grow.
    async fn held(&mut self, court: &mut Court<'_>, all: &All) -> Result<()> {
        let judge = format!("judge-{}", self.round);
        let term = all.boss.enter(judge.clone()).await?;
        if term.leader.as_ref() != Some(&judge) {
            court.tally.wrong.push(format!("election: a dead candidate leads: {term:?}"));
        }
        let token = all.door.try_acquire().await?;
        let Some(guard) = token else {
            court.tally.wrong.push("lock: the dead hold it".to_owned());
            return Ok(());
        };
        let mut tokens = HashSet::new();
        for (at, fact) in &court.diary.facts {
            match fact {
                Fact::Token(token) if !tokens.insert(*token) || *token <= self.token => {
                    court
                        .tally
                        .wrong
                        .push(format!("lock: token {token} was given twice, or after {}", self.token));
                }
                Fact::Token(token) if court.counts(*at) && guard.token() <= *token => {
                    court.tally.wrong.push(format!("lock: token {} after {token}", guard.token()));
                }
                Fact::Term(number) if *number < self.term => {
                    court.tally.wrong.push(format!("election: term {number} after {}", self.term));
                }
                Fact::Term(number) if court.counts(*at) && term.number <= *number => {
                    court.tally.wrong.push(format!("election: term {} after {number}", term.number));
                }
                _ => {}
            }
        }
        (self.token, self.term) = (guard.token(), term.number);
        guard.release().await?;
        all.boss.withdraw(judge).await?;
        Ok(())
    }

    /// The indexed map: the order, the indexes, and all that was there before.
    async fn log(&mut self, court: &mut Court<'_>, all: &All) -> Result<()> {
        let entries = all.log.entries().await?.collect().await?;
        let entries: Vec<(String, u64)> = entries.into_iter().map(|entry| (entry.key, entry.index)).collect();
        let (old, new) = entries.split_at(self.log.len().min(entries.len()));
        if old != self.log {
            court.tally.wrong.push(format!("log: of {} older entries not all are there", self.log.len()));
        }
        let marks: Vec<String> = new.iter().map(|(mark, _)| mark.clone()).collect();
        court.sequence("log", &marks, |deed| matches!(deed, Deed::Index(_)));
        let indexes: HashMap<&String, u64> = new.iter().map(|(mark, index)| (mark, *index)).collect();
        let reported = court.diary.writes.iter().flatten().filter_map(|write| match write.deed {
            Deed::Index(index) if index > 0 => Some((write.ended, &write.mark, index)),
            _ => None,
        });
        let seen = court.diary.facts.iter().filter_map(|(at, fact)| match fact {
            Fact::Indexed(mark, index) => Some((*at, mark, *index)),
            _ => None,
        });
        for (at, mark, index) in reported.chain(seen) {
            let kept = indexes.get(mark);
            if kept.map_or_else(|| court.counts(at), |kept| *kept != index) {
                court.tally.wrong.push(format!("log: {mark} was shown at {index} and is at {kept:?}"));
            }
        }
        let mut last = self.last_index;
        for (mark, index) in new {
            if *index <= last {
                court.tally.wrong.push(format!("log: {mark} at {index} comes after {last}"));
            }
            last = last.max(*index);
        }
        self.last_index = last;
        self.log = entries;
        if self.log.len() > LOG_MAX {
            all.log.clear().await?;
            self.log.clear();
        }
        Ok(())
    }

    /// The bank: the balances are exactly what the receipts say, and no money is made or lost.
    async fn bank(&mut self, court: &mut Court<'_>, all: &All) -> Result<()> {
        let mut accounts = [(0, 0); ACCOUNTS];
        let mut receipts = HashMap::new();
        for entry in all.bank.entries().await?.collect().await? {
            let account = (0..ACCOUNTS).find(|account| account_key(*account) == entry.key);
            if let Some(account) = account {
                accounts[account] = (balance(&entry.value.value), entry.value.version);
            } else {
                receipts.insert(entry.key, Transfer::read(&entry.value.value));
            }
        }
        let there = receipts.keys().cloned().collect();
        court.marks("bank", &there, |deed| matches!(deed, Deed::Transfer(_)));
        for write in court.diary.writes.iter().flatten() {
            if let (Deed::Transfer(sent), Some(found)) = (&write.deed, receipts.get(&write.mark))
                && sent != found
            {
                court
                    .tally
                    .wrong
                    .push(format!("bank: the receipt of {} is another one: {found:?}", write.mark));
            }
        }
        for receipt in receipts.values() {
            self.balances[receipt.from] -= receipt.amount;
            self.balances[receipt.to] += receipt.amount;
        }
        let found = accounts.map(|(balance, _)| balance);
        let money = MONEY * i64::try_from(ACCOUNTS).expect("few");
        if found != self.balances || found.iter().sum::<i64>() != money {
            court.tally.wrong.push(format!("bank: {found:?} instead of {:?}", self.balances));
        }
        for (account, (balance, version)) in accounts.into_iter().enumerate() {
            let facts = court.diary.facts.iter().filter_map(|(at, fact)| match fact {
                Fact::Account(of, balance, version) if *of == account => Some((*at, *balance, *version)),
                _ => None,
            });
            let before = (court.end.dead, self.balances[account], self.versions[account]);
            for (at, shown, of) in facts.chain([before].into_iter().filter(|before| before.2 == version)) {
                if (of > version && court.counts(at))
                    || (of == version && shown != balance && court.counts(at))
                {
                    court.tally.wrong.push(format!(
                        "bank: account {account} was {shown} in version {of} and is {balance} in {version}"
                    ));
                }
            }
            if version < self.versions[account] {
                court.tally.wrong.push(format!("bank: version {version} after {}", self.versions[account]));
            }
            (self.balances[account], self.versions[account]) = (balance, version);
        }
        let receipts: Vec<String> = receipts.into_keys().collect();
        for some in receipts.chunks(1000) {
            all.bank.commit(some.iter().map(Operation::remove)).await?;
        }
        Ok(())
    }

    /// The set: what was added and not removed.
    async fn members(&mut self, court: &mut Court<'_>, all: &All) -> Result<()> {
        let found: HashSet<String> = all.members.elements().await?.collect().await?.into_iter().collect();
        let mut removed = HashMap::new();
        for write in court.diary.writes.iter().flatten() {
            if let Deed::Remove(mark) = &write.deed {
                removed.insert(mark.clone(), court.fate(write));
                court.tally.acknowledged += u64::from(court.fate(write) == Fate::Must);
            }
        }
        for write in court.diary.writes.iter().flatten().filter(|write| matches!(write.deed, Deed::Add)) {
            let there = found.contains(&write.mark);
            match removed.get(&write.mark) {
                None | Some(Fate::Never) => court.mark("set", write, there),
                Some(Fate::Must) if there => {
                    court.tally.wrong.push(format!("set: {} was removed and is there", write.mark));
                }
                Some(Fate::Must | Fate::May) => {}
            }
        }
        let marks: HashSet<&String> = court.diary.writes.iter().flatten().map(|write| &write.mark).collect();
        for mark in found.iter().filter(|mark| !marks.contains(mark) && !self.members.contains(*mark)) {
            court.tally.wrong.push(format!("set: {mark} came from nowhere"));
        }
        for mark in self.members.iter().filter(|mark| !found.contains(*mark)) {
            court.tally.wrong.push(format!("set: {mark} of an earlier round is lost"));
        }
        self.members = found.into_iter().collect();
        if self.members.len() > LOG_MAX {
            all.members.clear().await?;
            self.members.clear();
        }
        Ok(())
    }

    /// The counter, the cells and the offsets: numbers between what must and what may be.
    async fn numbers(&mut self, court: &mut Court<'_>, all: &All) -> Result<()> {
        let hits = all.hits.get().await?;
        let (mut least, mut most, mut answers) = (self.hits, self.hits, HashSet::new());
        let mut cells = self.cells.map(|(number, version)| (number, number, version));
        for write in court.diary.writes.iter().flatten() {
            let fate = court.fate(write);
            match &write.deed {
                Deed::Count(answer) => {
                    least += i64::from(fate == Fate::Must);
                    most += i64::from(fate != Fate::Never);
                    if write.outcome == Outcome::Done && !answers.insert(*answer) {
                        court.tally.wrong.push(format!("counter: {answer} was answered twice"));
                    }
                }
                Deed::Set(cell, number, version) => {
                    let (least, most, of) = &mut cells[*cell];
                    match fate {
                        Fate::Must => (*least, *most, *of) = (*number, *number, *version),
                        Fate::May => *most = *number,
                        Fate::Never => continue,
                    }
                }
                Deed::Publish => {}
                _ => continue,
            }
            court.tally.acknowledged += u64::from(fate == Fate::Must);
        }
        for (at, fact) in &court.diary.facts {
            match fact {
                Fact::Counted(value) if court.counts(*at) => {
                    court.tally.revealed += 1;
                    least = least.max(*value);
                }
                Fact::Cell(cell, number, version) if court.counts(*at) => {
                    court.tally.revealed += 1;
                    let least = &mut cells[*cell];
                    (least.0, least.2) = (least.0.max(*number), least.2.max(*version));
                }
                Fact::Offset(offset) if *offset <= self.offset => {
                    court.tally.wrong.push(format!("topic: offset {offset} after {}", self.offset));
                }
                _ => {}
            }
        }
        if hits < least || hits > most {
            court.tally.wrong.push(format!("counter: {hits} is not within {least} and {most}"));
        }
        self.hits = hits;
        for (cell, (least, most, of)) in cells.into_iter().enumerate() {
            let found = all.cells[cell].get().await?;
            let (value, version) = found.map_or((0, 0), |found| (number(&found.value), found.version));
            if value < least || value > most || version < of || (value > least) != (version > of) {
                court.tally.wrong.push(format!(
                    "cell {cell}: {value} in version {version} is not within {least} in version {of} and {most}"
                ));
            }
            self.cells[cell] = (value, version);
        }
        let mut messages = all.news.subscribe().await?;
        all.news.publish(&"judge".to_owned()).await?;
        let offset = messages.next().await.expect("a message was published")?.offset;
        let seen = court.diary.facts.iter().filter_map(|(at, fact)| match fact {
            Fact::Offset(offset) if court.counts(*at) => Some(*offset),
            _ => None,
        });
        if seen.clone().any(|seen| seen >= offset) {
            court.tally.wrong.push(format!("topic: offset {offset} after {:?}", seen.max()));
        }
        self.offset = offset;
        Ok(())
    }
}

// === impl Court ===

impl Court<'_> {
    /// Tells whether what was shown then has to be true still.
    fn counts(&self, at: Instant) -> bool {
        self.end.synced.is_none_or(|synced| at <= synced)
    }

    fn fate(&self, write: &Write) -> Fate {
        match write.outcome {
            Outcome::Done if self.counts(write.ended) => Fate::Must,
            Outcome::Done | Outcome::Unknown => Fate::May,
            Outcome::Refused => Fate::Never,
        }
    }

    fn never(&mut self, what: &str, write: &Write, there: bool) {
        self.tally.refused += 1;
        if there {
            self.tally.wrong.push(format!("{what}: {} was refused and is there", write.mark));
        }
    }

    /// Judges a write that leaves its mark.
    fn mark(&mut self, what: &str, write: &Write, there: bool) {
        match (self.fate(write), write.outcome) {
            (Fate::Never, _) => return self.never(what, write, there),
            (Fate::Must, _) => {
                self.tally.acknowledged += 1;
                if !there {
                    self.tally.wrong.push(format!("{what}: {} was answered and is lost", write.mark));
                }
            }
            (Fate::May, Outcome::Done) => {
                self.tally.late += 1;
                self.tally.late_gone += u64::from(!there);
            }
            (Fate::May, _) if there => self.tally.unknown_there += 1,
            (Fate::May, _) => self.tally.unknown_gone += 1,
        }
        let name = || format!("{what} {}", write.mark);
        if there && self.there.as_ref().is_none_or(|(began, _)| *began < write.began) {
            self.there = Some((write.began, name()));
        }
        let gone = !there && write.outcome == Outcome::Done;
        if gone && self.gone.as_ref().is_none_or(|(ended, _)| *ended > write.ended) {
            self.gone = Some((write.ended, name()));
        }
    }

    /// Judges all writes that leave their marks in one place.
    fn marks(&mut self, what: &str, found: &HashSet<String>, deeds: fn(&Deed) -> bool) {
        let diary = self.diary;
        let writes = || diary.writes.iter().flatten().filter(|write| deeds(&write.deed));
        for write in writes() {
            self.mark(what, write, found.contains(&write.mark));
        }
        let known: HashSet<&String> = writes().map(|write| &write.mark).collect();
        for mark in found.iter().filter(|mark| !known.contains(mark)) {
            self.tally.wrong.push(format!("{what}: {mark} came from nowhere in round {}", self.round));
        }
    }

    /// Judges writes that stand in the order in which they were made: one that had ended before another began comes first.
    fn sequence(&mut self, what: &str, found: &[String], deeds: fn(&Deed) -> bool) {
        let set: HashSet<String> = found.iter().cloned().collect();
        if set.len() < found.len() {
            self.tally.wrong.push(format!("{what}: something is there twice"));
        }
        self.marks(what, &set, deeds);
        let diary = self.diary;
        let writes: HashMap<&String, &Write> =
            diary.writes.iter().flatten().map(|write| (&write.mark, write)).collect();
        let mut begun: Option<Instant> = None;
        for write in found.iter().filter_map(|mark| writes.get(mark)) {
            if write.outcome == Outcome::Done && begun.is_some_and(|begun| write.ended < begun) {
                self.tally.wrong.push(format!("{what}: {} is behind what came later", write.mark));
            }
            begun = begun.max(Some(write.began));
        }
    }

    /// All writes of a store have one order: when one is gone, everything that came after it is gone.
    fn order_of_all(&mut self) {
        if let (Some((ended, gone)), Some((began, there))) = (&self.gone, &self.there)
            && ended < began
        {
            self.tally.wrong.push(format!("{gone} is gone, but {there} is there, which came later"));
        }
    }
}
