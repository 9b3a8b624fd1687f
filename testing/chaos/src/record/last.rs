// SPDX-License-Identifier: Apache-2.0
//! The last writes: a stream that shows them has shown everything before.

use std::time::{Duration, Instant};

use atomix_linearizability::{cell, index, list, member, number};

use super::Kind;
use super::log::LAST;
use super::replies::{Entry, Reply, changed, indexed, numbered, one, placed, written};
use super::worker::{Access, PAUSE, Request, Worker};

/// A key that is written when all clients have ended.
pub(super) const END: &str = "end";

impl Worker {
    /// Writes something last to whatever is followed. Gives up where nothing can be written.
    pub(super) async fn finish(mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut left: Vec<(Kind, u64)> = Vec::new();
        for kind in &self.log.options.kinds {
            left.extend((0..self.log.options.names).map(|name| (*kind, name)));
        }
        while !left.is_empty() && Instant::now() < deadline {
            let mut undone = Vec::new();
            for (kind, name) in left {
                if !self.ready(kind, name).await || !self.last(kind, name).await {
                    undone.push((kind, name));
                }
            }
            left = undone;
            if !left.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn last(&mut self, kind: Kind, name: u64) -> bool {
        let mark = LAST + self.log.mark();
        let text = self.text(mark);
        match kind {
            Kind::Map => {
                let map = self.session().maps[&name].clone();
                let object = format!("map/{name}/{END}");
                let ops = vec![(object.as_str(), cell::Op::Put(mark, 0))];
                let request = Request { histories: |log| &log.cells, ops, access: Access::Writes };
                self.record_call(request, map.put(END, &text), |reply| one(written(reply)))
                    .await
                    .answers
                    .is_some()
            }
            Kind::Value => {
                let value = self.session().values[&name].clone();
                let object = format!("value/{name}/");
                let ops = vec![(object.as_str(), cell::Op::Put(mark, 0))];
                let request = Request { histories: |log| &log.cells, ops, access: Access::Writes };
                self.record_call(request, value.set(&text), |reply| one(written(reply)))
                    .await
                    .answers
                    .is_some()
            }
            Kind::Set => {
                let set = self.session().sets[&name].clone();
                let object = format!("set/{name}/{END}");
                let ops = vec![(object.as_str(), member::Op::Add)];
                let request = Request { histories: |log| &log.members, ops, access: Access::Writes };
                self.record_call(request, set.add(END), |reply| one(changed(reply))).await.answers.is_some()
            }
            Kind::MultiMap => {
                let map = self.session().multimaps[&name].clone();
                let object = format!("multimap/{name}/{END}/{END}");
                let ops = vec![(object.as_str(), member::Op::Add)];
                let request = Request { histories: |log| &log.members, ops, access: Access::Writes };
                self.record_call(request, map.put(END, END), |reply| one(changed(reply)))
                    .await
                    .answers
                    .is_some()
            }
            Kind::CounterMap => {
                let map = self.session().counter_maps[&name].clone();
                let object = format!("countermap/{name}/{END}");
                let ops = vec![(object.as_str(), number::Op::Add(1))];
                let request = Request { histories: |log| &log.numbers, ops, access: Access::Writes };
                self.record_call(request, map.increment(END, 1), |reply| one(numbered(reply)))
                    .await
                    .answers
                    .is_some()
            }
            Kind::List => {
                let list = self.session().lists[&name].clone();
                let object = format!("list/{name}/");
                let ops = vec![(object.as_str(), list::Op::Append(mark))];
                let request = Request { histories: |log| &log.lists, ops, access: Access::Writes };
                let done = |reply: Reply<'_, ()>| one(placed(reply.map(|()| list::Answer::Done)));
                self.record_call(request, list.append(&text), done).await.answers.is_some()
            }
            Kind::IndexedMap => {
                let map = self.session().indexed_maps[&name].clone();
                let object = format!("indexedmap/{name}/");
                let ops = vec![(object.as_str(), index::Op::Append(mark, mark))];
                let request = Request { histories: |log| &log.indices, ops, access: Access::Writes };
                let entry = |reply: Reply<'_, Entry>| one(indexed(reply.map(Some)));
                self.record_call(request, map.append(format!("k{mark}"), &text), entry)
                    .await
                    .answers
                    .is_some()
            }
            Kind::Topic => self.publish(name, mark).await,
            Kind::Lock if self.log.options.free_at_end => self.take_free_lock(name).await,
            Kind::Counter | Kind::Lock | Kind::KeyLock | Kind::Election => true,
        }
    }
}
