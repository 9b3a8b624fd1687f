// SPDX-License-Identifier: Apache-2.0
//! Calls for what a session owns: locks and candidacies.

use std::time::Duration;

use atomix_client::election::Term;
use atomix_client::lock::Guard;
use atomix_client::{KeysGuard, Result};
use atomix_linearizability::{Call, election, lock};

use super::log::open;
use super::replies::{Reply, one, term_answer};
use super::worker::{Access, Observed, Request, Worker};

/// How long a lock may take to become free when all sessions have ended.
const FREE_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that is held.
enum Held {
    Lock(Guard),
    Keys(KeysGuard),
}

impl Worker {
    pub(super) async fn lock(&mut self, name: u64) {
        let object = format!("lock/{name}/");
        let lock = self.session().locks[&name].clone();
        if self.dice.roll(5) == 0 {
            let request = request(&object, lock::Op::Token, Access::Reads);
            let token = |reply: Reply<'_, Option<u64>>| {
                one(Some(reply.ok()?.map_or(lock::Answer::Free, lock::Answer::Token)))
            };
            self.record_call(request, lock.holder(), token).await;
            return;
        }
        let wait = self.lock_timeout();
        let mut guard = None;
        let take = async { Ok(guard.insert(lock.acquire().timeout(wait).await?).token()) };
        let reply = |reply: Reply<'_, u64>| one(reply.ok().map(lock::Answer::Token));
        let taken = self.take(std::slice::from_ref(&object), take, reply).await;
        if let Some(guard) = guard {
            self.hold(&[object], Held::Lock(guard), &taken).await;
        }
    }

    /// Takes and releases a lock that no session holds any more. Returns false if the call failed.
    pub(super) async fn take_free_lock(&mut self, name: u64) -> bool {
        let object = format!("lock/{name}/");
        let lock = self.session().locks[&name].clone();
        let mut guard = None;
        let take = async { Ok(guard.insert(lock.acquire().timeout(FREE_TIMEOUT).await?).token()) };
        let answer = |reply: Reply<'_, u64>| one(reply.ok().map(lock::Answer::Token));
        let taken = self.take(std::slice::from_ref(&object), take, answer).await;
        if taken.reason == "LOCK_TIMEOUT" {
            open(&self.log.stuck).push(object);
            return true;
        }
        let Some(guard) = guard else { return false };
        self.hold(&[object], Held::Lock(guard), &taken).await;
        true
    }

    /// Locks keys of a map, or unlocks what it does not hold.
    pub(super) async fn key_lock(&mut self, name: u64) {
        let map = self.session().key_locks[&name].clone();
        let keys = [&["k0"][..], &["k1"], &["k0", "k1"]][self.dice.index(3)];
        let objects: Vec<String> = keys.iter().map(|key| format!("keylock/{name}/{key}")).collect();
        if keys.len() == 1 && self.dice.roll(4) == 0 {
            let request = request(&objects[0], lock::Op::Release(self.session().id), Access::Owns);
            self.record_call(request, map.unlock(keys.iter().copied()), |reply| one(released(reply))).await;
            return;
        }
        let wait = self.lock_timeout();
        let mut guard = None;
        let take = async {
            guard = Some(map.lock(keys.iter().copied()).timeout(wait).await?);
            Ok(())
        };
        let count = keys.len();
        let reply = |reply: Reply<'_, ()>| reply.ok().map(|()| vec![lock::Answer::Done; count]);
        let taken = self.take(&objects, take, reply).await;
        if let Some(guard) = guard {
            self.hold(&objects, Held::Keys(guard), &taken).await;
        }
    }

    /// Returns how long to wait for a lock: not at all, for a moment, or for long.
    fn lock_timeout(&mut self) -> Duration {
        Duration::from_millis([0, 50, 200, 2500][self.dice.index(4)])
    }

    async fn take<T>(
        &mut self,
        objects: &[String],
        take: impl Future<Output = Result<T>>,
        reply: impl FnOnce(Reply<'_, T>) -> Option<Vec<lock::Answer>>,
    ) -> Observed<lock::Answer> {
        let session = self.session().id;
        let ops = objects.iter().map(|object| (object.as_str(), lock::Op::Take(session))).collect();
        let observed = self
            .record_call(Request { histories: |log| &log.locks, ops, access: Access::Owns }, take, reply)
            .await;
        if observed.reason == "LOCK_TIMEOUT" {
            for object in objects {
                // It may have been its turn in the moment in which it gave up, and others may have seen that.
                let ended = Some(observed.ended);
                let turn = Call { ended, ..Call::lost(session, observed.began, lock::Op::Take(session)) };
                self.log.locks.note(object, turn);
            }
            if let [object] = objects {
                let during = observed.began..observed.ended;
                self.log.locks.note(object, Call::done(session, during, lock::Op::Wait, lock::Answer::Done));
            }
        }
        observed
    }

    async fn hold(&mut self, objects: &[String], held: Held, taken: &Observed<lock::Answer>) {
        tokio::time::sleep(Duration::from_micros(self.dice.roll(8000))).await;
        let session = self.session().id;
        let ops = objects.iter().map(|object| (object.as_str(), lock::Op::Release(session))).collect();
        let request = Request { histories: |log| &log.locks, ops, access: Access::Owns };
        let release = async {
            match held {
                Held::Lock(guard) => guard.release().await,
                Held::Keys(guard) => guard.release().await,
            }
        };
        let count = objects.len();
        let reply = |reply: Reply<'_, ()>| released(reply).map(|answer| vec![answer; count]);
        let observed = self.record_call(request, release, reply).await;
        match observed.answers.as_deref() {
            Some([lock::Answer::Done, ..]) => {}
            Some(_) => {
                if self.log.options.stalls {
                    // The runtime was taken for dead, and with it the session.
                    for object in objects {
                        let ended = Some(observed.ended);
                        let end = Call { ended, ..Call::lost(session, taken.began, lock::Op::End(session)) };
                        self.log.locks.note(object, end);
                    }
                }
                self.must_end = true;
            }
            // It may hold the lock still, and nothing but its end gives it back.
            None => self.must_end = true,
        }
    }

    pub(super) async fn election(&mut self, name: u64) {
        let object = format!("election/{name}/");
        let election = self.session().elections[&name].clone();
        let session = self.session().id;
        let own = format!("c{}", self.me);
        let other = format!("c{}", self.dice.roll(u64::from(self.log.options.clients)));
        let reply = |reply: Reply<'_, Term>| one(reply.ok().map(term_answer));
        let request = |op, access| Request {
            histories: |log| &log.elections,
            ops: vec![(object.as_str(), op)],
            access,
        };
        match self.dice.roll(10) {
            0..2 => {
                self.record_call(request(election::Op::Get, Access::Reads), election.term(), reply).await;
            }
            2..5 => {
                let request = request(election::Op::Enter(own.clone(), session), Access::Owns);
                let observed = self.record_call(request, election.enter(own), reply).await;
                if self.log.options.stalls {
                    let end = Call::lost(session, observed.began, election::Op::End(session));
                    self.log.elections.note(&object, end);
                }
            }
            5..7 => {
                let request = request(election::Op::Withdraw(own.clone(), session), Access::Owns);
                self.record_call(request, election.withdraw(own), reply).await;
            }
            7 => {
                let request = request(election::Op::Anoint(other.clone()), Access::Writes);
                self.record_call(request, election.anoint(other), reply).await;
            }
            8 => {
                let request = request(election::Op::Promote(other.clone()), Access::Writes);
                self.record_call(request, election.promote(other), reply).await;
            }
            _ if self.dice.roll(2) == 0 => {
                let request = request(election::Op::Demote(other.clone()), Access::Writes);
                self.record_call(request, election.demote(other), reply).await;
            }
            _ => {
                let request = request(election::Op::Evict(other.clone()), Access::Writes);
                self.record_call(request, election.evict(other), reply).await;
            }
        }
    }
}

fn request(object: &str, op: lock::Op, access: Access) -> Request<'_, atomix_linearizability::Lock> {
    Request { histories: |log| &log.locks, ops: vec![(object, op)], access }
}

fn released(reply: Reply<'_, ()>) -> Option<lock::Answer> {
    match reply {
        Ok(()) => Some(lock::Answer::Done),
        Err("LOCK_NOT_HELD") => Some(lock::Answer::NotHeld),
        Err(_) => None,
    }
}
