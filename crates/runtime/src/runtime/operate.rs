// SPDX-License-Identifier: Apache-2.0
//! The commands of operators on primitives and stores: close, delete, disconnect if nothing is lost.
//!
//! While a primitive is closed or deleted here, its name cannot be created again in this runtime. So the order is: end what sessions do
//! there, wait for the calls that run, delete the content in one transaction, let the store forget the name. A crash in between
//! leaves a primitive that has all of its content, or none.

use std::sync::Arc;
use std::time::Duration;

use atomix_config::StoreId;
use atomix_primitives::{Error, Kind, PrimitiveConfig, Reason, Vacancy, run_uncancellable};
use atomix_store::{Durability, Keyspace, Store as _, printable};

use super::Runtime;
use crate::error::{not_connected, shutting_down};
use crate::primitive::{Origin, PrimitiveHandle};
use crate::recovery::known;
use crate::slot::Slot;

/// A primitive that an operator wants to delete.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// The kind.
    pub kind: Kind,
    /// The name.
    pub name: String,
    /// The store of the content; none for the store in which the primitive is open, else the one that remembers it, else the one to which
    /// the routes lead it.
    pub store: Option<StoreId>,
    /// The tags, for routes that look at them.
    pub tags: Vec<String>,
    /// Delete it although it has content or users.
    pub force: bool,
    /// Look, and change nothing.
    pub dry_run: bool,
}

/// The content and the use of a primitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The store.
    pub store: StoreId,
    /// Entries in the store; zero if they were not counted.
    pub entries: u64,
    /// Sessions of this runtime that use it.
    pub sessions: usize,
    /// Their streams.
    pub streams: usize,
    /// Their calls that wait for a lock.
    pub waiters: usize,
    /// Other runtimes that have it open, as far as the store knows.
    pub elsewhere: usize,
}

/// A name that cannot be created until this is dropped.
struct Ended {
    runtime: Arc<Runtime>,
    kind: Kind,
    name: String,
}

/// The pauses while calls that run come to their end.
const PAUSE: Duration = Duration::from_millis(10);

impl Drop for Ended {
    fn drop(&mut self) {
        self.runtime.ending.remove(self.kind, std::mem::take(&mut self.name));
    }
}

// === impl Usage ===

impl Usage {
    fn of(handle: &PrimitiveHandle) -> Self {
        Self {
            store: handle.store_id().clone(),
            entries: 0,
            sessions: handle.sessions(),
            streams: handle.streams(),
            waiters: handle.waiters(),
            elsewhere: 0,
        }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { store, entries, sessions, streams, waiters, elsewhere } = self;
        let store = printable(&store.to_string());
        write!(
            f,
            "store=`{store}` entries=`{entries}` sessions=`{sessions}` streams=`{streams}` waiters=`{waiters}` \
             other-processes=`{elsewhere}`"
        )
    }
}

// === impl Runtime ===

impl Runtime {
    /// Closes a primitive here for all sessions, as an operator: their streams and waiting calls end, what they own is released, the
    /// connections of sessions that hold locks are closed. The content stays; another runtime that has the primitive open is not
    /// concerned.
    ///
    /// Goes on if the call is dropped. [`Reason::NotKnown`] if it is neither open here nor remembered by a store.
    pub async fn close_primitive(&self, kind: Kind, name: &str) -> Result<Usage, Error> {
        let (this, name) = (self.strong()?, name.to_owned());
        run_uncancellable(&self.env, async move { this.close_now(kind, &name).await }).await
    }

    /// Closes a primitive as [`Runtime::close_primitive`] does, and deletes its content from the store in one transaction.
    ///
    /// No reader sees a part of the content, also after a crash. Writes that were answered before this call are deleted; calls of this runtime
    /// that run are waited for, and later ones are refused until the primitive is created again. Writes by other runtimes and writes
    /// whose clients have gone come before or after it as a whole. Locks go on with larger tokens; the terms of an election, the
    /// indexes of an indexed map and the like begin again.
    ///
    /// [`Reason::InUse`] if it has content or users, unless that is forced; nothing was changed then. Also if it is forced, when
    /// sessions of other runtimes own something there: they would not know of the loss. Goes on if the call is dropped, and may
    /// be repeated. [`Reason::NotKnown`] if there is nothing to delete.
    pub async fn delete_primitive(&self, deletion: Deletion) -> Result<Usage, Error> {
        let this = self.strong()?;
        run_uncancellable(&self.env, async move { this.delete_now(&deletion).await }).await
    }

    /// Disconnects a store as [`Runtime::disconnect`] does, unless content would be lost: [`Reason::InUse`] if the store lives
    /// in this process and a primitive has content there.
    pub async fn disconnect_unless_lost(&self, id: &StoreId) -> Result<(), Error> {
        let slot = self.store(id).ok_or_else(|| not_connected(id))?;
        if slot.known_profile().is_some_and(|profile| profile.durability == Durability::Process) {
            let primitive = |keyspace: &Keyspace| Kind::of_keyspace(keyspace).is_some();
            let lost = slot.seal_if_empty(&primitive).await?;
            if lost > 0 {
                let used = self.primitives.count(|handle| handle.store_id() == id && handle.is_attached());
                let id = printable(&id.to_string());
                return Err(Error::new(
                    Reason::InUse,
                    format!(
                        "store keeps its content in memory only, and disconnecting it would lose it: copy what you need, or \
                         force it: store=`{id}` primitives-with-content=`{lost}` primitives-in-use=`{used}`"
                    ),
                ));
            }
        }
        let slot = self.registry.remove_exactly(&slot)?;
        self.disconnect_slot(&slot).await;
        Ok(())
    }

    async fn close_now(&self, kind: Kind, name: &str) -> Result<Usage, Error> {
        self.check_name(name)?;
        let ended = self.begin_end(kind, name)?;
        let Some(handle) = self.find(kind, name) else {
            let store = self.recovery.store_of(kind, name).await?.ok_or_else(|| unknown(kind, name))?;
            self.recovery.forget_closed(kind, name);
            self.recovery.forget_everywhere(kind, name).await;
            log("closed", kind, name, &store);
            return Ok(Usage { store, entries: 0, sessions: 0, streams: 0, waiters: 0, elsewhere: 0 });
        };
        let usage = Usage::of(&handle);
        self.end_use(&handle).await?;
        self.recovery.forget_closed(kind, name);
        self.recovery.forget(&handle).await;
        self.idle.queue_reclaim(&handle);
        drop(ended);
        log("closed", kind, name, &usage.store);
        Ok(usage)
    }

    async fn delete_now(&self, deletion: &Deletion) -> Result<Usage, Error> {
        let Deletion { kind, name, force, dry_run, .. } = deletion;
        let (kind, name) = (*kind, name.as_str());
        self.check_name(name)?;
        let ended = self.begin_end(kind, name)?;
        let store = self.place_of(deletion).await?;
        let slot = self.store(&store).ok_or_else(|| not_connected(&store))?;
        slot.first_attempt(&self.draining).await?;
        let here = self.find(kind, name).filter(|handle| *handle.store_id() == store);
        let is_open = here.is_some();
        let handle = match here {
            Some(handle) => handle,
            None => self.open_unlisted(&slot, kind, name).await?,
        };
        let remembered = known(&slot);
        let mut usage = Usage::of(&handle);
        usage.entries = handle.backing().entries().await?;
        if let Some(known) = &remembered {
            usage.elsewhere = known.elsewhere(kind, name).await?;
        }
        let vacant = handle.backing().vacancy().await? == Vacancy::Empty;
        let in_store = match &remembered {
            Some(known) => known.recall(kind, name).await?.is_some(),
            None => false,
        };
        if vacant && !is_open && !in_store {
            return Err(unknown(kind, name));
        }
        let owners = match handle.ownership() {
            Some(ownership) => ownership.elsewhere().await?,
            None => 0,
        };
        if owners > 0 {
            let message = format!(
                "sessions of other processes own something there, end them first: nothing was changed: {usage} \
                 owning-processes=`{owners}`"
            );
            return Err(Error::new(Reason::InUse, message));
        }
        if *dry_run {
            return Ok(usage);
        }
        let used = usage.sessions > 0 || usage.elsewhere > 0;
        if !force && (used || !vacant) {
            let message = format!("the primitive has content or users, force it to lose them: {usage}");
            return Err(Error::new(Reason::InUse, message));
        }
        if *force {
            self.end_use(&handle).await?;
            self.wait_for_calls(&handle).await?;
            handle.primitive().erase(handle.backing()).await?;
        } else {
            // No content was found. A session that came since then has it.
            let came = || Error::new(Reason::InUse, "the primitive came into use meanwhile: look again");
            if is_open && !self.primitives.forget_idle(&handle) {
                return Err(came());
            }
            if handle.backing().vacate().await? != Vacancy::Empty {
                self.recovery.remember_content(&handle).await;
                return Err(came());
            }
        }
        if let Some(known) = remembered {
            known.forget(kind, name).await?;
        }
        if self.find(kind, name).is_none() {
            self.recovery.forget_closed(kind, name);
        }
        self.idle.queue_reclaim(&handle);
        drop(ended);
        log("deleted", kind, name, &store);
        Ok(usage)
    }

    fn strong(&self) -> Result<Arc<Self>, Error> {
        self.this.upgrade().ok_or_else(shutting_down)
    }

    /// Keeps the name from being created until the result is dropped.
    fn begin_end(&self, kind: Kind, name: &str) -> Result<Ended, Error> {
        let runtime = self.strong()?;
        self.ending.insert(kind, name)?;
        Ok(Ended { runtime, kind, name: name.to_owned() })
    }

    /// Ends what sessions do on a primitive that cannot be created again yet, and releases what they own there.
    async fn end_use(&self, handle: &Arc<PrimitiveHandle>) -> Result<(), Error> {
        handle.set_ended();
        self.primitives.forget_used(handle);
        let sessions = self.detach_all(std::slice::from_ref(handle));
        let owners = sessions.iter().map(|session| session.owner(handle)).collect();
        let released = self.env.timeout(self.close_grace, self.release_owned(handle, owners)).await;
        released.map_err(|_| self.too_slow("failed to release in the store what sessions own"))
    }

    /// Waits for the calls that have found `handle`, which no later call finds.
    async fn wait_for_calls(&self, handle: &Arc<PrimitiveHandle>) -> Result<(), Error> {
        let end = async {
            // The caller has one reference, and each stream; streams only read.
            while Arc::strong_count(handle) > 1 + handle.streams() {
                self.env.sleep(PAUSE).await;
            }
        };
        let ended = self.env.timeout(self.close_grace, end).await;
        ended.map_err(|_| self.too_slow("calls on the primitive did not end in time"))
    }

    fn too_slow(&self, what: &str) -> Error {
        let grace = self.close_grace.as_secs();
        let message =
            format!("{what}: it is closed here, nothing was deleted: repeat it: waited=`{grace} s`");
        Error::new(Reason::DeadlineExceeded, message)
    }

    /// Finds the store that keeps the content of what is to be deleted.
    async fn place_of(&self, deletion: &Deletion) -> Result<StoreId, Error> {
        let Deletion { kind, name, store, tags, .. } = deletion;
        if let Some(store) = store {
            return Ok(store.clone());
        }
        if let Some(handle) = self.find(*kind, name) {
            return Ok(handle.store_id().clone());
        }
        if let Some(store) = self.recovery.store_of(*kind, name).await? {
            return Ok(store);
        }
        Ok(self.router.place(*kind, name, tags)?.store_id)
    }

    /// Opens a primitive for an operator alone: no call finds it.
    async fn open_unlisted(
        &self,
        slot: &Arc<Slot>,
        kind: Kind,
        name: &str,
    ) -> Result<Arc<PrimitiveHandle>, Error> {
        let config = PrimitiveConfig::default();
        Ok(Arc::new(self.opened(slot, config, Origin::Recalled, kind, name, &[]).await?))
    }
}

fn unknown(kind: Kind, name: &str) -> Error {
    let (kind, name) = (kind.type_name(), printable(name));
    let message = format!(
        "no such primitive here, and no content where the routes lead it: give its tags or its store: kind=`{kind}` \
         name=`{name}`"
    );
    Error::new(Reason::NotKnown, message)
}

fn log(done: &str, kind: Kind, name: &str, store: &StoreId) {
    let kind = kind.type_name();
    tracing::info!(kind, name = %printable(name), %store, "an operator {done} a primitive");
}
