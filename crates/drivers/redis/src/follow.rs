// SPDX-License-Identifier: Apache-2.0
//! Watches.
//!
//! Every call that commits puts a frame into the stream of its keyspace and publishes it. A [`KeyspaceWatch`]
//! serves all watches of one keyspace: published frames go into a [`History`] immediately; frames that may
//! have been missed (between connections, after a failover, when a message was lost) are read from the
//! stream. A *subscription* is the connection to one server that receives the frames of all its keyspaces.
//! The *keeper* is the task that catches up after errors.
//!
//! Invariant: a keyspace watch delivers every commit, or its history ends. It continues only from a commit
//! that it has seen and that is still in the stream with the same nonce; checked by `tests/it/watch.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Backoff, Shutdown};
use atomix_store::{
    Commit, Error, ErrorKind, History, HistoryBudget, Keyspace, Retention, Revision, WatchFrom, WatchStream,
};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use crate::cursor::damaged;
use crate::dial::{Failure, Wire};
use crate::error::{Asked, Redirect, redirect, translate};
use crate::frame::{Frame, Nonce, Nonces};
use crate::names::{Names, STREAM};
use crate::nodes::Nodes;
use crate::position::{position, settled_position};

/// All keyspace watches of a store.
#[derive(Debug)]
pub(crate) struct KeyspaceWatches {
    nodes: Arc<Nodes>,
    nonces: Arc<Nonces>,
    histories: HistoryBudget,
    by_keyspace: Mutex<HashMap<Keyspace, Arc<KeyspaceWatch>>>,
    subscriptions: tokio::sync::Mutex<HashMap<Arc<str>, Arc<Wire>>>,
    registry: Arc<WatchRegistry>,
}

/// The keyspace watches by channel, for the push handlers of the subscriptions.
#[derive(Debug, Default)]
struct WatchRegistry {
    channels: RwLock<HashMap<Bytes, Arc<KeyspaceWatch>>>,
    /// Wakes the keeper: a keyspace watch has to catch up.
    wake_keeper: Notify,
}

/// Follows one keyspace.
#[derive(Debug)]
struct KeyspaceWatch {
    keyspace: Keyspace,
    names: Names,
    channel: Bytes,
    /// Serialises catching up.
    catch_up_lock: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    histories: HistoryBudget,
    retention: Retention,
}

#[derive(Debug, Default)]
struct State {
    /// The commits seen; none before the first catch-up has ended.
    history: Option<History>,
    tip: Revision,
    /// The nonce of the commit at the tip.
    nonce: Nonce,
    /// The first tip. It may be a floor, which has no frame.
    first_tip: Revision,
    /// Collects frames during a catch-up.
    buffered: Option<BufferedFrames>,
    /// Something may have been missed.
    stale: bool,
    /// The subscription that receives its frames.
    subscription: Option<Arc<Wire>>,
    /// No stream may follow this watch any more.
    removed: bool,
    /// It had no followers at the last check.
    idle: bool,
}

#[derive(Debug, Default)]
struct BufferedFrames {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Frames were dropped because there were too many: they are read from the stream instead.
    overflow: bool,
}

/// Buffers the frames of a keyspace watch while it catches up.
struct CatchUp<'a> {
    watch: &'a KeyspaceWatch,
    registry: &'a WatchRegistry,
    /// The catch-up has ended. If not, its caller was dropped, and the keeper has to repeat it.
    finished: bool,
}

/// Handles the push messages of a subscription.
struct PushHandler {
    registry: Arc<WatchRegistry>,
    broken: Shutdown,
}

/// The result of a catch-up.
#[derive(Debug, PartialEq, Eq)]
enum Caught {
    /// Every earlier commit was delivered.
    Up,
    /// The stream does not have the commits any more that were seen. The watch has ended.
    Lost,
}

/// Interval of the check of all keyspace watches against Redis. Bounds how long a watch lives after an
/// operator has deleted its keyspace.
const AUDIT: Duration = Duration::from_secs(5);
/// Backoff of the keeper after errors.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Maximum of concurrent catch-ups.
const CATCH_UPS_MAX: usize = 16;
/// Frames read in one step, and frames buffered.
const PAGE: usize = 64;
const BUFFERED_MAX: usize = 1024;
/// Maximum of attempts of a call while servers change.
const ROUNDS_MAX: usize = 5;

// === impl KeyspaceWatches ===

impl KeyspaceWatches {
    pub(crate) fn new(nodes: Arc<Nodes>, nonces: Arc<Nonces>) -> Self {
        let histories = HistoryBudget::new(nodes.dialer.settings.histories_bytes_max);
        Self {
            nodes,
            nonces,
            histories,
            by_keyspace: Mutex::default(),
            subscriptions: tokio::sync::Mutex::default(),
            registry: Arc::default(),
        }
    }

    /// Follows a keyspace, see [`atomix_store::Store::watch`].
    pub(crate) async fn watch(&self, keyspace: &Keyspace, from: WatchFrom) -> Result<WatchStream, Error> {
        for _ in 0..ROUNDS_MAX {
            let watch = self.find_or_create(keyspace);
            // A stream that begins at a commit already seen need not wait for newer ones: they follow.
            let seen = watch.state.lock().tip;
            let known =
                matches!(from, WatchFrom::After(revision) if revision <= seen) && !watch.needs_catch_up();
            if !known && self.catch_up(&watch).await? == Caught::Lost {
                // The next round makes a new one.
                self.remove(&watch);
                continue;
            }
            let Some(history) = watch.state.lock().history.clone() else { continue };
            if let WatchFrom::After(revision) = from
                && revision < history.floor()
            {
                self.reach_back(&watch, &history, revision).await?;
            }
            let stream = history.follow(from);
            // Check after following: a watch that is not removed now is kept for the stream.
            if !watch.state.lock().removed {
                return stream;
            }
        }
        Err(Error::unavailable("keyspace kept changing, try again"))
    }

    /// Keeps all keyspace watches up to date until `stop`.
    pub(crate) async fn keep(&self, stop: &Shutdown) {
        let env = &self.nodes.dialer.env;
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        // None unless a catch-up has failed.
        let mut pause = None;
        loop {
            let audit = tokio::select! {
                () = stop.cancelled() => return,
                () = env.sleep(pause.unwrap_or(AUDIT)) => true,
                () = self.registry.wake_keeper.notified(), if pause.is_none() => false,
            };
            if audit {
                self.probe_subscriptions().await;
                self.drop_idle().await;
            }
            let watches: Vec<Arc<KeyspaceWatch>> = self.by_keyspace.lock().values().cloned().collect();
            let behind =
                watches.into_iter().filter(|watch: &Arc<KeyspaceWatch>| audit || watch.needs_catch_up());
            let results: Vec<_> =
                futures::stream::iter(behind.map(|watch| async move { self.catch_up(&watch).await }))
                    .buffer_unordered(CATCH_UPS_MAX)
                    .collect()
                    .await;
            let failed = results.into_iter().find_map(Result::err);
            pause = match failed {
                None => {
                    backoff.reset();
                    None
                }
                Some(error) => {
                    tracing::debug!(%error, "a watch cannot go on yet");
                    Some(backoff.next(env))
                }
            };
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.registry.channels.write().clear();
        for (_, watch) in self.by_keyspace.lock().drain() {
            let mut state = watch.state.lock();
            state.removed = true;
            state.subscription = None;
            if let Some(history) = &state.history {
                history.close();
            }
        }
    }

    fn find_or_create(&self, keyspace: &Keyspace) -> Arc<KeyspaceWatch> {
        let mut watches = self.by_keyspace.lock();
        let watch = watches
            .entry(keyspace.clone())
            .or_insert_with(|| Arc::new(KeyspaceWatch::new(&self.nodes, keyspace, &self.histories)));
        watch.state.lock().idle = false;
        Arc::clone(watch)
    }

    /// Delivers every commit before the call. The keeper retries after errors.
    async fn catch_up(&self, watch: &Arc<KeyspaceWatch>) -> Result<Caught, Error> {
        let _locked = watch.catch_up_lock.lock().await;
        if watch.state.lock().removed {
            // To look again would subscribe again, and give a state to a keyspace that was given back.
            return Ok(Caught::Lost);
        }
        let mut catch_up = CatchUp::begin(watch, &self.registry);
        let caught = async {
            self.listen(watch).await?;
            watch.sync(&self.nodes, &self.nonces).await
        };
        let caught = caught.await;
        catch_up.finished = true;
        match caught {
            Ok(None) => Ok(Caught::Up),
            Ok(Some(oldest)) => {
                self.end_lost(watch, oldest).await;
                Ok(Caught::Lost)
            }
            Err(error) => {
                if error.kind() == ErrorKind::Corrupt {
                    // It will not get better by waiting.
                    let tip = watch.state.lock().tip;
                    self.end_lost(watch, tip).await;
                    return Err(error);
                }
                let unused = {
                    let mut state = watch.state.lock();
                    state.mark_stale();
                    // A watch without followers is removed; the next caller makes a new one.
                    let unused = state.history.is_none();
                    state.removed |= unused;
                    unused.then(|| state.subscription.take())
                };
                if let Some(subscription) = unused {
                    self.drop_watch(watch, subscription).await;
                }
                Err(error)
            }
        }
    }

    /// Subscribes to the channel of the keyspace, if that was not done.
    async fn listen(&self, watch: &Arc<KeyspaceWatch>) -> Result<(), Error> {
        for _ in 0..ROUNDS_MAX {
            let link = self.nodes.route(watch.names.slot).await?;
            let subscription = self.subscription(&link.address).await?;
            if watch.state.lock().subscription.as_ref().is_some_and(|known| Arc::ptr_eq(known, &subscription))
            {
                return Ok(());
            }
            self.registry.channels.write().insert(watch.channel.clone(), Arc::clone(watch));
            let answer = subscription.call(redis::cmd("SSUBSCRIBE").arg(&watch.channel[..])).await;
            match answer {
                Ok(Value::Push { kind: PushKind::SSubscribe, .. }) => {
                    watch.state.lock().subscription = Some(subscription);
                    return Ok(());
                }
                Ok(_) => {
                    subscription.broken.cancel();
                    return Err(Error::unavailable("redis answers a subscription with something else"));
                }
                Err(Failure::Said(error)) => match redirect(&error) {
                    Some(Redirect::Moved(address)) => self.nodes.moved(watch.names.slot, &link, &address),
                    _ => return Err(translate(error, Asked::Read)),
                },
                Err(failure) => return Err(failure.translate(Asked::Read)),
            }
        }
        Err(Error::unavailable("the nodes do not agree where the keyspace is"))
    }

    /// Returns the subscription to a server.
    async fn subscription(&self, address: &Arc<str>) -> Result<Arc<Wire>, Error> {
        let mut subscriptions = self.subscriptions.lock().await;
        if let Some(subscription) =
            subscriptions.get(address).filter(|subscription| !subscription.broken.is_cancelled())
        {
            return Ok(Arc::clone(subscription));
        }
        let broken = Shutdown::new();
        let handler = PushHandler { registry: Arc::clone(&self.registry), broken: broken.clone() };
        let subscription =
            Arc::new(self.nodes.dialer.server(address, Some(Arc::new(handler)), broken).await?);
        subscriptions.insert(Arc::clone(address), Arc::clone(&subscription));
        Ok(subscription)
    }

    /// Pings all subscriptions and drops the broken ones.
    async fn probe_subscriptions(&self) {
        let subscriptions: Vec<_> = self.subscriptions.lock().await.values().cloned().collect();
        let pings = subscriptions.iter().map(|subscription| async {
            // A ping without an answer breaks the subscription.
            if subscription.call(&redis::cmd("PING")).await.is_err() {
                subscription.broken.cancel();
            }
        });
        futures::future::join_all(pings).await;
        self.subscriptions.lock().await.retain(|_, subscription| !subscription.broken.is_cancelled());
    }

    /// Drops keyspace watches that had no followers at two checks in a row.
    async fn drop_idle(&self) {
        let watches: Vec<Arc<KeyspaceWatch>> = self.by_keyspace.lock().values().cloned().collect();
        for watch in watches {
            // A watch that is catching up is checked by the next audit.
            let Ok(_locked) = watch.catch_up_lock.try_lock() else { continue };
            let subscription = {
                let mut state = watch.state.lock();
                let followed = state.has_followers();
                let idle_before = std::mem::replace(&mut state.idle, !followed);
                if followed || !idle_before {
                    continue;
                }
                state.removed = true;
                state.subscription.take()
            };
            self.drop_watch(&watch, subscription).await;
        }
    }

    /// Drops the watch of a keyspace unless it has followers. Returns false if it has.
    pub(crate) async fn drop_unwatched(&self, keyspace: &Keyspace) -> bool {
        let Some(watch) = self.by_keyspace.lock().get(keyspace).cloned() else { return true };
        // Not during a catch-up: that may subscribe.
        let _locked = watch.catch_up_lock.lock().await;
        let subscription = {
            let mut state = watch.state.lock();
            if state.has_followers() {
                return false;
            }
            state.removed = true;
            state.subscription.take()
        };
        self.drop_watch(&watch, subscription).await;
        true
    }

    /// Drops a removed watch. The caller holds its lock, so that the next watch of the keyspace subscribes
    /// after this.
    async fn drop_watch(&self, watch: &Arc<KeyspaceWatch>, subscription: Option<Arc<Wire>>) {
        self.unregister(watch);
        if let Some(subscription) = subscription {
            // Messages that arrive before this is done find no watch.
            drop(subscription.call(redis::cmd("SUNSUBSCRIBE").arg(&watch.channel[..])).await);
        }
        self.remove(watch);
    }

    /// Ends a watch whose commits are not in the stream any more.
    async fn end_lost(&self, watch: &Arc<KeyspaceWatch>, oldest: Revision) {
        let subscription = {
            let mut state = watch.state.lock();
            state.removed = true;
            state.buffered = None;
            if let Some(history) = &state.history {
                history.end(&Error::compacted(oldest));
            }
            state.subscription.take()
        };
        tracing::warn!(keyspace = %watch.keyspace, "commits that were seen are not in redis any more, watches end");
        self.drop_watch(watch, subscription).await;
    }

    fn remove(&self, watch: &Arc<KeyspaceWatch>) {
        let mut watches = self.by_keyspace.lock();
        if watches.get(&watch.keyspace).is_some_and(|known| Arc::ptr_eq(known, watch)) {
            watches.remove(&watch.keyspace);
        }
        drop(watches);
        self.unregister(watch);
    }

    /// Removes the watch from the registry of channels.
    fn unregister(&self, watch: &Arc<KeyspaceWatch>) {
        let mut channels = self.registry.channels.write();
        if channels.get(&watch.channel).is_some_and(|known| Arc::ptr_eq(known, watch)) {
            channels.remove(&watch.channel);
        }
    }

    /// Puts commits from the stream in front of the history, those after `revision`.
    async fn reach_back(
        &self,
        watch: &KeyspaceWatch,
        history: &History,
        revision: Revision,
    ) -> Result<(), Error> {
        let _locked = watch.catch_up_lock.lock().await;
        let floor = history.floor();
        let mut commits: Vec<Arc<Commit>> = Vec::new();
        let mut last = revision;
        while last < floor {
            let frames = watch.page(&self.nodes, Revision(last.0 + 1)).await?;
            let Some(first) = frames.first() else { return Err(Error::compacted(floor)) };
            if first.first().0 > last.0 + 1 {
                return Err(Error::compacted(Revision(first.first().0 - 1)));
            }
            for commit in frames.into_iter().flat_map(|frame| frame.commits) {
                if commit.revision > last {
                    last = commit.revision;
                    commits.push(Arc::new(commit));
                }
            }
        }
        commits.retain(|commit| commit.revision <= floor);
        history.extend_back(revision, commits);
        Ok(())
    }
}

// === impl KeyspaceWatch ===

impl KeyspaceWatch {
    fn new(nodes: &Nodes, keyspace: &Keyspace, histories: &HistoryBudget) -> Self {
        let settings = &nodes.dialer.settings;
        let names = Names::new(&settings.key_prefix, keyspace);
        Self {
            keyspace: keyspace.clone(),
            channel: names.channel(&nodes.library.channel),
            names,
            catch_up_lock: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            histories: histories.clone(),
            retention: Retention {
                commits_max: settings.history_commits_max,
                bytes_max: settings.history_bytes_max,
            },
        }
    }

    /// Returns whether the watch may miss commits, or has not begun yet.
    fn needs_catch_up(&self) -> bool {
        let state = self.state.lock();
        state.stale
            || state.history.is_none()
            || state.subscription.as_ref().is_none_or(|subscription| subscription.broken.is_cancelled())
    }

    /// Handles a published frame. Returns whether the keeper must catch up.
    fn take(&self, frame: Frame, bytes: usize) -> bool {
        let mut state = self.state.lock();
        if let Some(buffered) = &mut state.buffered {
            buffered.push(frame, bytes, self.retention.bytes_max);
            return false;
        }
        if state.stale || state.history.is_none() {
            return state.stale;
        }
        // A frame that was seen already may be a late echo, or belong to another history.
        let next = frame.first().0 == state.tip.0 + 1;
        state.stale = !next || !state.append(frame, self.retention);
        state.stale
    }

    /// Reads what is missing. Returns the revision of the keyspace if what was seen is not there any more.
    async fn sync(&self, nodes: &Nodes, nonces: &Nonces) -> Result<Option<Revision>, Error> {
        loop {
            let (revision, nonce) = match position(nodes, &self.names).await? {
                (Revision(0), nonce) if nonce == Nonce::default() => {
                    settled_position(nodes, &self.names, nonces.next()).await?
                }
                state => state,
            };
            let known = {
                let mut state = self.state.lock();
                if state.history.is_none() {
                    state.history = Some(History::new(revision, &self.histories));
                    (state.tip, state.nonce, state.first_tip) = (revision, nonce, revision);
                }
                (state.tip, state.nonce)
            };
            let right = match revision.cmp(&known.0) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => revision == Revision(0) || nonce == known.1,
                std::cmp::Ordering::Greater => self.read_after(nodes, revision).await?,
            };
            if !right {
                return Ok(Some(revision));
            }
            if self.state.lock().apply_buffered(self.retention) {
                return Ok(None);
            }
        }
    }

    /// Reads the stream up to `revision` at least. False if it does not go on from what was seen.
    async fn read_after(&self, nodes: &Nodes, revision: Revision) -> Result<bool, Error> {
        loop {
            let (tip, seen, first_tip) = {
                let state = self.state.lock();
                (state.tip, state.nonce, state.first_tip)
            };
            let from = tip.max(Revision(1));
            let frames = self.page(nodes, from).await?;
            let Some(first) = frames.first() else { return Ok(false) };
            let goes_on = if first.first() > from {
                // A keyspace that begins at a floor has nothing before its first commit.
                tip == first_tip && first.first().0 == tip.0 + 1
            } else {
                tip == Revision(0) || first.nonce == seen
            };
            if !goes_on {
                return Ok(false);
            }
            let last_page = frames.len() < PAGE;
            let mut state = self.state.lock();
            if !frames.into_iter().all(|frame| state.append(frame, self.retention)) {
                return Ok(false);
            }
            if last_page {
                return Ok(state.tip >= revision);
            }
        }
    }

    /// Some frames from the one on that has `revision`, or comes after it.
    async fn page(&self, nodes: &Nodes, revision: Revision) -> Result<Vec<Frame>, Error> {
        let mut cmd = redis::cmd("XRANGE");
        self.names.pass(&mut cmd, &[STREAM]);
        cmd.arg(format!("{revision}-0")).arg("+").arg("COUNT").arg(PAGE);
        let (answer, _) = nodes.call(self.names.slot, &cmd, Asked::Read).await?;
        let Value::Array(items) = answer else { return Err(damaged()) };
        let frames = items.into_iter().map(|item| {
            let Value::Array(mut item) = item else { return Err(damaged()) };
            let Some(Value::Array(mut fields)) = item.pop() else { return Err(damaged()) };
            let Some(Value::BulkString(frame)) = fields.pop() else { return Err(damaged()) };
            Frame::decode(frame.into())
        });
        frames.collect()
    }
}

// === impl State ===

impl State {
    /// Returns whether there are watches, or one is about to begin.
    fn has_followers(&self) -> bool {
        self.history.as_ref().is_none_or(|history| history.followers() > 0)
    }

    /// Takes the commits of a frame that were not seen yet. False if there are others in between.
    fn append(&mut self, frame: Frame, retention: Retention) -> bool {
        if frame.last() <= self.tip {
            return true;
        }
        if frame.first().0 > self.tip.0 + 1 {
            return false;
        }
        self.nonce = frame.nonce;
        for commit in frame.commits {
            if commit.revision > self.tip {
                self.tip = commit.revision;
                if let Some(history) = &self.history {
                    history.push(commit, retention);
                }
            }
        }
        true
    }

    /// Ends the catch-up without a result; the keeper repeats it.
    fn mark_stale(&mut self) {
        self.buffered = None;
        self.stale = true;
    }

    /// Takes the frames that were held. False if something is missing: then they are held again.
    fn apply_buffered(&mut self, retention: Retention) -> bool {
        let buffered = self.buffered.take().unwrap_or_default();
        if buffered.overflow || !buffered.frames.into_iter().all(|frame| self.append(frame, retention)) {
            self.buffered = Some(BufferedFrames::default());
            return false;
        }
        self.stale = false;
        true
    }
}

// === impl CatchUp ===

impl<'a> CatchUp<'a> {
    fn begin(watch: &'a KeyspaceWatch, registry: &'a WatchRegistry) -> Self {
        watch.state.lock().buffered = Some(BufferedFrames::default());
        Self { watch, registry, finished: false }
    }
}

impl Drop for CatchUp<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.watch.state.lock().mark_stale();
            self.registry.wake_keeper.notify_one();
        }
    }
}

// === impl BufferedFrames ===

impl BufferedFrames {
    fn push(&mut self, frame: Frame, bytes: usize, bytes_max: usize) {
        self.bytes += bytes;
        if self.frames.len() == BUFFERED_MAX || self.bytes > bytes_max {
            self.overflow = true;
            self.frames.clear();
        }
        if !self.overflow {
            self.frames.push_back(frame);
        }
    }
}

// === impl PushHandler ===

impl AsyncPushSender for PushHandler {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "kinds that are not for us, and those that may be added"
        )]
        match push.kind {
            PushKind::SMessage => {
                let mut data = push.data.into_iter();
                let (Some(Value::BulkString(channel)), Some(Value::BulkString(frame))) =
                    (data.next(), data.next())
                else {
                    return Ok(());
                };
                let watch = self.registry.channels.read().get(&channel[..]).cloned();
                let Some(watch) = watch else { return Ok(()) };
                let bytes = frame.len();
                // A frame that cannot be decoded here cannot be read from the stream either: the keeper
                // reports it.
                let taken = Frame::decode(frame.into()).map(|frame| watch.take(frame, bytes));
                if taken.is_err() {
                    watch.state.lock().stale = true;
                }
                if taken.unwrap_or(true) {
                    self.registry.wake_keeper.notify_one();
                }
            }
            PushKind::Disconnection => {
                self.broken.cancel();
                self.registry.wake_keeper.notify_one();
            }
            PushKind::SUnsubscribe => {
                // The server ended the subscription although the watch still exists: its slot moved to
                // another node.
                let channel = match push.data.first() {
                    Some(Value::BulkString(channel)) => Some(channel),
                    _ => None,
                };
                if channel.is_some_and(|channel| self.registry.channels.read().contains_key(&channel[..])) {
                    self.broken.cancel();
                    self.registry.wake_keeper.notify_one();
                }
            }
            _ => {}
        }
        Ok(())
    }
}
