// SPDX-License-Identifier: Apache-2.0
//! A client, its session, and what it remembers of each call.

use std::sync::Arc;
use std::time::Duration;

use atomix_client::{Error, Result};
use atomix_conformance::Dice;
use atomix_linearizability::{Call, Model};
use tokio::sync::watch;

use super::log::{Histories, Log};
use super::replies::Reply;
use super::session::Session;
use super::{Kind, Phase};

/// A client.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) log: Arc<Log>,
    pub(super) dice: Dice,
    pub(super) me: u32,
    pub(super) session: Option<Session>,
    /// Whether the session is to end before the next call.
    pub(super) must_end: bool,
}

/// The effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Reads,
    /// A change.
    Writes,
    /// Something that the session owns: a connection that breaks is no refusal.
    Owns,
}

/// A call that is about to be made.
#[derive(Debug)]
pub(super) struct Request<'a, M: Model> {
    pub(super) histories: fn(&Log) -> &Histories<M>,
    /// The objects that the call is about, each with what it asks of them.
    pub(super) ops: Vec<(&'a str, M::Op)>,
    pub(super) access: Access,
}

/// When a call began and ended, and its answers if it was answered.
pub(super) struct Observed<A> {
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) answers: Option<Vec<A>>,
    /// Whether it was certainly not applied.
    pub(super) refused: bool,
    /// Why there is no answer.
    pub(super) reason: String,
}

/// The outcome of a write for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Done,
    /// It was certainly not applied.
    Refused,
    /// It was applied or not.
    Unknown,
}

/// How long a client waits when nothing can be reached.
pub(super) const PAUSE: Duration = Duration::from_millis(30);

// === impl Worker ===

impl Worker {
    pub(super) fn new(log: Arc<Log>, dice: Dice, me: u32) -> Self {
        Self { log, dice, me, session: None, must_end: false }
    }

    /// Calls as long as the recording runs.
    pub(super) async fn work(mut self, phase: watch::Receiver<Phase>) {
        while *phase.borrow() == Phase::Runs {
            let kinds = &self.log.options.kinds;
            let kind = kinds[self.dice.index(kinds.len())];
            let name = self.dice.roll(self.log.options.names);
            if !self.ready(kind, name).await {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            self.call(kind, name).await;
            let pause = self.log.options.pause.as_micros();
            let pause = self.dice.roll(u64::try_from(pause).unwrap_or(u64::MAX).max(1));
            tokio::time::sleep(Duration::from_micros(pause)).await;
            self.must_end |= self.log.options.deaths && self.dice.roll(1000) == 0;
        }
    }

    /// Makes sure that there is a session which has opened this primitive.
    pub(super) async fn ready(&mut self, kind: Kind, name: u64) -> bool {
        if self.must_end || self.session.as_ref().is_some_and(Session::is_gone) {
            self.session = None;
            self.must_end = false;
        }
        if self.session.is_none() {
            let endpoint = self.dice.index(self.log.endpoints.len());
            match Session::begin(&self.log, &self.log.endpoints[endpoint]).await {
                Ok(session) => self.session = Some(session),
                Err(error) => self.count_error("session", &error),
            }
        }
        let Some(session) = &mut self.session else { return false };
        let opened = session.open(kind, name).await;
        if let Err(error) = &opened {
            self.count_error("open", error);
            self.note_failure(error);
        }
        opened.is_ok()
    }

    pub(super) fn session(&self) -> &Session {
        self.session.as_ref().expect("it was made ready")
    }

    fn count_error(&self, what: &str, error: &Error) {
        let reason = error.reason().unwrap_or("-");
        *self.log.counts().errors.entry(format!("{what}: {} {reason}", error.kind())).or_default() += 1;
    }

    async fn call(&mut self, kind: Kind, name: u64) {
        match kind {
            Kind::Map => self.map(name).await,
            Kind::Value => self.value(name).await,
            Kind::Counter => self.counter(name).await,
            Kind::Lock => self.lock(name).await,
            Kind::KeyLock => self.key_lock(name).await,
            Kind::Set => self.set(name).await,
            Kind::List => self.list(name).await,
            Kind::IndexedMap => self.indexed_map(name).await,
            Kind::CounterMap => self.counter_map(name).await,
            Kind::MultiMap => self.multimap(name).await,
            Kind::Election => self.election(name).await,
            Kind::Topic => {
                let mark = self.log.mark();
                self.publish(name, mark).await;
            }
        }
    }

    /// Returns the text of a mark, some of it with padding.
    pub(super) fn text(&mut self, mark: u64) -> String {
        let padding = self.log.options.padding;
        let width = [0, 0, padding / 8, padding][self.dice.index(4)];
        format!("{mark} {:.<width$}", "")
    }

    /// Makes a call and records it. `answer` returns the answer about each object, or `None` if there is none.
    pub(super) async fn record_call<M: Model, T>(
        &mut self,
        request: Request<'_, M>,
        call: impl IntoFuture<Output = Result<T>>,
        answer: impl FnOnce(Reply<'_, T>) -> Option<Vec<M::Answer>>,
    ) -> Observed<M::Answer> {
        let Request { histories, ops, access } = request;
        let observed = self.perform(access, call, answer).await;
        let client = self.session().id;
        for (at, (object, op)) in ops.into_iter().enumerate() {
            let during = observed.began..observed.ended;
            match &observed.answers {
                Some(answers) => {
                    histories(&self.log).note(object, Call::done(client, during, op, answers[at].clone()));
                }
                None if observed.refused || access == Access::Reads => {}
                None => histories(&self.log).note(object, Call::lost(client, observed.began, op)),
            }
        }
        observed
    }

    /// Makes a call.
    pub(super) async fn perform<A, T>(
        &mut self,
        access: Access,
        call: impl IntoFuture<Output = Result<T>>,
        answer: impl FnOnce(Reply<'_, T>) -> Option<Vec<A>>,
    ) -> Observed<A> {
        let began = self.log.now();
        let reply = call.await;
        let ended = self.log.now();
        if let Some(session) = &mut self.session
            && (reply.is_ok() || reply.as_ref().is_err_and(|error| error.reason().is_some()))
        {
            session.answered(began);
        }
        let (answers, refused, reason) = match reply {
            Ok(value) => (answer(Ok(value)), false, String::new()),
            Err(error) => {
                use atomix_client::Kind::{OutcomeUnknown, Unavailable};
                if error.reason().is_none() && matches!(error.kind(), OutcomeUnknown | Unavailable) {
                    self.session.as_mut().map(Session::broke);
                }
                let reason = error.reason().unwrap_or_default().to_owned();
                let answers = answer(Err(&reason));
                if answers.is_none() {
                    self.count_error(if access == Access::Reads { "read" } else { "write" }, &error);
                    self.note_failure(&error);
                }
                (answers, is_refusal(&error, access), reason)
            }
        };
        let mut counts = self.log.counts();
        match &answers {
            Some(_) => counts.done += 1,
            None if refused => counts.refused += 1,
            None => counts.lost += 1,
        }
        drop(counts);
        Observed { began, ended, answers, refused, reason }
    }

    /// Ends the session after some errors, so that the client may use another endpoint.
    fn note_failure(&mut self, error: &Error) {
        use atomix_client::Kind::{Cancelled, Timeout, Unavailable};
        // A runtime that was taken for dead begins again under another name, and with it its sessions.
        self.must_end |= error.reason() == Some("HOST_LOST");
        self.must_end |= matches!(error.kind(), Timeout | Unavailable | Cancelled) && self.dice.roll(4) == 0;
    }
}

// === impl Outcome ===

impl Outcome {
    /// Returns the outcome of a call that has an effect outside of its session.
    pub fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(error) if is_refusal(error, Access::Writes) => Self::Refused,
            Err(_) => Self::Unknown,
        }
    }
}

/// Returns whether a call was certainly not applied.
fn is_refusal(error: &Error, access: Access) -> bool {
    use atomix_client::Kind as Error;
    match error.kind() {
        Error::Unavailable => access != Access::Owns,
        Error::NotFound
        | Error::AlreadyExists
        | Error::Conflict
        | Error::Invalid
        | Error::Denied
        | Error::Unsupported => true,
        _ => false,
    }
}
