// SPDX-License-Identifier: Apache-2.0
//! Watches.
//!
//! Every call that commits puts a frame into the stream of its keyspace and publishes it. A *feed* follows one keyspace for
//! all watches of it: what is published goes into a [`History`] at once; what may have been missed (between connections,
//! after a failover, when something was lost on the way) is read from the stream. A *tap* is the connection to one server
//! through which all feeds of that server are told.
//!
//! Invariant: a feed brings every commit, or its history ends. It goes on only from a commit that it has seen and that
//! is still there with the same nonce; checked by `tests/it/watch.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Shutdown;
use atomix_kv::{
    Commit, Error, ErrorKind, History, HistoryRoom, Keyspace, Retention, Revision, WatchFrom, WatchStream,
};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use crate::cursor::damaged;
use crate::dial::{Failure, Wire};
use crate::error::{Asked, Elsewhere, elsewhere, translate};
use crate::frame::{Frame, Nonce};
use crate::names::{Names, STREAM};
use crate::store::Core;

/// All feeds of a store.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    histories: HistoryRoom,
    by_keyspace: Mutex<HashMap<Keyspace, Arc<Feed>>>,
    taps: tokio::sync::Mutex<HashMap<Arc<str>, Arc<Wire>>>,
    told: Arc<Told>,
}

/// What the connections of the taps see of the feeds.
#[derive(Debug, Default)]
struct Told {
    channels: RwLock<HashMap<Bytes, Arc<Feed>>>,
    /// Wakes the keeper: a feed needs it.
    attention: Notify,
}

/// Follows one keyspace.
#[derive(Debug)]
struct Feed {
    keyspace: Keyspace,
    names: Names,
    channel: Bytes,
    /// Who catches up, one at a time.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    histories: HistoryRoom,
    retention: Retention,
}

#[derive(Debug, Default)]
struct State {
    /// What was seen; none before the feed has caught up for the first time.
    history: Option<History>,
    tip: Revision,
    /// The nonce of the commit at the tip.
    nonce: Nonce,
    /// The first tip. It may be a floor, which has no frame.
    begun: Revision,
    /// Where frames go while the feed catches up.
    held: Option<Held>,
    /// Something may have been missed.
    stale: bool,
    /// The tap through which the feed is told.
    tap: Option<Arc<Wire>>,
    /// Nobody may follow this feed any more.
    gone: bool,
    /// Nobody has followed it since the last look.
    idle: bool,
}

#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Frames were let go because there were too many: they are read from the stream instead.
    overflow: bool,
}

/// Holds the frames of a feed back while it catches up.
struct Holding<'a> {
    feed: &'a Feed,
    told: &'a Told,
    /// Catching up came to an end. If not, its caller is gone, and somebody else has to do it.
    over: bool,
}

/// Takes what a server says through a tap.
struct Ear {
    told: Arc<Told>,
    broken: Shutdown,
}

/// What catching up came to.
#[derive(Debug, PartialEq, Eq)]
enum Caught {
    /// The feed has brought everything that was committed before.
    Up,
    /// The commits that were seen are not there any more. The feed is at its end.
    Lost,
}

/// How often every feed looks whether it is still right, whatever it was told. Bounds how long a watch lives that should end
/// because somebody deleted its keyspace by hand.
const AUDIT: Duration = Duration::from_secs(5);
/// Pauses of the keeper while something fails.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Feeds that catch up at the same time.
const CROWD: usize = 16;
/// Frames read in one step, and frames held.
const PAGE: usize = 64;
const HELD_MAX: usize = 1024;
/// How often a call starts again because servers change.
const ROUNDS_MAX: usize = 5;

// === impl Feeds ===

impl Feeds {
    pub(crate) fn new(histories_bytes_max: usize) -> Self {
        Self { histories: HistoryRoom::new(histories_bytes_max), ..Self::default() }
    }

    /// Follows a keyspace, see [`atomix_kv::Store::watch`].
    pub(crate) async fn watch(
        &self,
        core: &Core,
        keyspace: &Keyspace,
        from: WatchFrom,
    ) -> Result<WatchStream, Error> {
        for _ in 0..ROUNDS_MAX {
            let feed = self.feed(core, keyspace);
            // Who begins at what was seen here need not wait for what was committed meanwhile: it comes.
            let seen = feed.state.lock().tip;
            let known = matches!(from, WatchFrom::After(revision) if revision <= seen) && !feed.is_needy();
            if !known && self.catch_up(core, &feed).await? == Caught::Lost {
                // The next round makes a new one.
                self.remove(&feed);
                continue;
            }
            let Some(history) = feed.state.lock().history.clone() else { continue };
            if let WatchFrom::After(revision) = from
                && revision < history.floor()
            {
                self.reach_back(core, &feed, &history, revision).await?;
            }
            let stream = history.follow(from);
            // Followed first and asked then: a feed that is not gone now is kept for the stream.
            if !feed.state.lock().gone {
                return stream;
            }
        }
        Err(Error::unavailable("the keyspace does not come to rest"))
    }

    /// Keeps all feeds right until `stop`.
    pub(crate) async fn keep(&self, core: &Core, stop: &Shutdown) {
        let env = &core.nodes.dialer.env;
        let mut pause = Duration::ZERO;
        loop {
            let wait = if pause.is_zero() { AUDIT } else { env.jitter(pause) };
            let audit = tokio::select! {
                () = stop.cancelled() => return,
                () = env.sleep(wait) => true,
                () = self.told.attention.notified(), if pause.is_zero() => false,
            };
            if audit {
                self.look_after_taps().await;
                self.drop_idle().await;
            }
            let feeds: Vec<Arc<Feed>> = self.by_keyspace.lock().values().cloned().collect();
            let needy = feeds.into_iter().filter(|feed: &Arc<Feed>| audit || feed.is_needy());
            let results: Vec<_> =
                futures::stream::iter(needy.map(|feed| async move { self.catch_up(core, &feed).await }))
                    .buffer_unordered(CROWD)
                    .collect()
                    .await;
            let failed = results.into_iter().find_map(Result::err);
            pause = match failed {
                None => Duration::ZERO,
                Some(error) => {
                    tracing::debug!(%error, "a watch cannot go on yet");
                    (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
                }
            };
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.told.channels.write().clear();
        for (_, feed) in self.by_keyspace.lock().drain() {
            let mut state = feed.state.lock();
            state.gone = true;
            state.tap = None;
            if let Some(history) = &state.history {
                history.close();
            }
        }
    }

    fn feed(&self, core: &Core, keyspace: &Keyspace) -> Arc<Feed> {
        let mut feeds = self.by_keyspace.lock();
        let feed = feeds
            .entry(keyspace.clone())
            .or_insert_with(|| Arc::new(Feed::new(core, keyspace, &self.histories)));
        feed.state.lock().idle = false;
        Arc::clone(feed)
    }

    /// Brings everything that was committed before the call. Whatever fails is tried again by the keeper.
    async fn catch_up(&self, core: &Core, feed: &Arc<Feed>) -> Result<Caught, Error> {
        let _turn = feed.turn.lock().await;
        if feed.state.lock().gone {
            // To look again would subscribe again, and give a state to a keyspace that was given back.
            return Ok(Caught::Lost);
        }
        let mut holding = Holding::begin(feed, &self.told);
        let caught = async {
            self.listen(core, feed).await?;
            feed.sync(core).await
        };
        let caught = caught.await;
        holding.over = true;
        match caught {
            Ok(None) => Ok(Caught::Up),
            Ok(Some(oldest)) => {
                self.lose(feed, oldest).await;
                Ok(Caught::Lost)
            }
            Err(error) => {
                if error.kind() == ErrorKind::Corrupt {
                    // It will not get better by waiting.
                    let tip = feed.state.lock().tip;
                    self.lose(feed, tip).await;
                    return Err(error);
                }
                let unused = {
                    let mut state = feed.state.lock();
                    state.give_up();
                    // A feed that nobody follows yet is made anew by the next who asks.
                    let unused = state.history.is_none();
                    state.gone |= unused;
                    unused.then(|| state.tap.take())
                };
                if let Some(tap) = unused {
                    self.drop_feed(feed, tap).await;
                }
                Err(error)
            }
        }
    }

    /// Makes sure that the feed is told of what is committed.
    async fn listen(&self, core: &Core, feed: &Arc<Feed>) -> Result<(), Error> {
        for _ in 0..ROUNDS_MAX {
            let link = core.nodes.route(feed.names.slot).await?;
            let tap = self.tap(core, &link.address).await?;
            if feed.state.lock().tap.as_ref().is_some_and(|known| Arc::ptr_eq(known, &tap)) {
                return Ok(());
            }
            self.told.channels.write().insert(feed.channel.clone(), Arc::clone(feed));
            let answer = tap.call(redis::cmd("SSUBSCRIBE").arg(&feed.channel[..])).await;
            match answer {
                Ok(Value::Push { kind: PushKind::SSubscribe, .. }) => {
                    feed.state.lock().tap = Some(tap);
                    return Ok(());
                }
                Ok(_) => {
                    tap.broken.cancel();
                    return Err(Error::unavailable("redis answers a subscription with something else"));
                }
                Err(Failure::Said(error)) => match elsewhere(&error) {
                    Some(Elsewhere::Moved(address)) => core.nodes.moved(feed.names.slot, &link, &address),
                    _ => return Err(translate(error, Asked::Read)),
                },
                Err(failure) => return Err(failure.translate(Asked::Read)),
            }
        }
        Err(Error::unavailable("the nodes do not agree where the keyspace is"))
    }

    /// Returns the tap of a server.
    async fn tap(&self, core: &Core, address: &Arc<str>) -> Result<Arc<Wire>, Error> {
        let mut taps = self.taps.lock().await;
        if let Some(tap) = taps.get(address).filter(|tap| !tap.broken.is_cancelled()) {
            return Ok(Arc::clone(tap));
        }
        let broken = Shutdown::new();
        let ear = Ear { told: Arc::clone(&self.told), broken: broken.clone() };
        let tap = Arc::new(core.nodes.dialer.server(address, Some(Arc::new(ear)), broken).await?);
        taps.insert(Arc::clone(address), Arc::clone(&tap));
        Ok(tap)
    }

    /// Finds out which taps still hear something, and forgets the others.
    async fn look_after_taps(&self) {
        let taps: Vec<_> = self.taps.lock().await.values().cloned().collect();
        let pings = taps.iter().map(|tap| async {
            // A call without an answer breaks the tap.
            if tap.call(&redis::cmd("PING")).await.is_err() {
                tap.broken.cancel();
            }
        });
        futures::future::join_all(pings).await;
        self.taps.lock().await.retain(|_, tap| !tap.broken.is_cancelled());
    }

    /// Forgets feeds that nobody has followed for a while.
    async fn drop_idle(&self) {
        let feeds: Vec<Arc<Feed>> = self.by_keyspace.lock().values().cloned().collect();
        for feed in feeds {
            // A feed that is catching up is looked at again with the next audit.
            let Ok(_turn) = feed.turn.try_lock() else { continue };
            let tap = {
                let mut state = feed.state.lock();
                let followed = state.is_followed();
                let idle_before = std::mem::replace(&mut state.idle, !followed);
                if followed || !idle_before {
                    continue;
                }
                state.gone = true;
                state.tap.take()
            };
            self.drop_feed(&feed, tap).await;
        }
    }

    /// Forgets the feed of a keyspace at once unless it is followed. False if it is.
    pub(crate) async fn leave(&self, keyspace: &Keyspace) -> bool {
        let Some(feed) = self.by_keyspace.lock().get(keyspace).cloned() else { return true };
        // Not while the feed catches up: that may subscribe.
        let _turn = feed.turn.lock().await;
        let tap = {
            let mut state = feed.state.lock();
            if state.is_followed() {
                return false;
            }
            state.gone = true;
            state.tap.take()
        };
        self.drop_feed(&feed, tap).await;
        true
    }

    /// Forgets a feed that is gone. Its caller has the turn, so that the next feed of the keyspace subscribes after this.
    async fn drop_feed(&self, feed: &Arc<Feed>, tap: Option<Arc<Wire>>) {
        self.silence(feed);
        if let Some(tap) = tap {
            // What comes before this is done finds no feed.
            drop(tap.call(redis::cmd("SUNSUBSCRIBE").arg(&feed.channel[..])).await);
        }
        self.remove(feed);
    }

    /// Ends a feed whose commits are not there any more.
    async fn lose(&self, feed: &Arc<Feed>, oldest: Revision) {
        let tap = {
            let mut state = feed.state.lock();
            state.gone = true;
            state.held = None;
            if let Some(history) = &state.history {
                history.end(&Error::compacted(oldest));
            }
            state.tap.take()
        };
        tracing::warn!(keyspace = %feed.keyspace, "commits that were seen are not in redis any more, watches end");
        self.drop_feed(feed, tap).await;
    }

    fn remove(&self, feed: &Arc<Feed>) {
        let mut feeds = self.by_keyspace.lock();
        if feeds.get(&feed.keyspace).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            feeds.remove(&feed.keyspace);
        }
        drop(feeds);
        self.silence(feed);
    }

    /// Forgets that the feed is to be told of anything.
    fn silence(&self, feed: &Arc<Feed>) {
        let mut channels = self.told.channels.write();
        if channels.get(&feed.channel).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            channels.remove(&feed.channel);
        }
    }

    /// Puts commits from the stream in front of the history, those after `revision`.
    async fn reach_back(
        &self,
        core: &Core,
        feed: &Feed,
        history: &History,
        revision: Revision,
    ) -> Result<(), Error> {
        let _turn = feed.turn.lock().await;
        let floor = history.floor();
        let mut commits: Vec<Arc<Commit>> = Vec::new();
        let mut last = revision;
        while last < floor {
            let frames = feed.page(core, Revision(last.0 + 1)).await?;
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

// === impl Feed ===

impl Feed {
    fn new(core: &Core, keyspace: &Keyspace, histories: &HistoryRoom) -> Self {
        let settings = &core.nodes.dialer.settings;
        let names = core.names(keyspace);
        Self {
            keyspace: keyspace.clone(),
            channel: names.channel(&core.nodes.library.channel),
            names,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            histories: histories.clone(),
            retention: Retention {
                commits_max: settings.history_commits_max,
                bytes_max: settings.history_bytes_max,
            },
        }
    }

    /// Whether the feed may miss something, or has not begun yet.
    fn is_needy(&self) -> bool {
        let state = self.state.lock();
        state.stale
            || state.history.is_none()
            || state.tap.as_ref().is_none_or(|tap| tap.broken.is_cancelled())
    }

    /// Takes a frame that was published. Tells whether the keeper must look.
    fn take(&self, frame: Frame, bytes: usize) -> bool {
        let mut state = self.state.lock();
        if let Some(held) = &mut state.held {
            held.push(frame, bytes, self.retention.bytes_max);
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
    async fn sync(&self, core: &Core) -> Result<Option<Revision>, Error> {
        loop {
            let (revision, nonce) = match core.state(&self.names).await? {
                (Revision(0), nonce) if nonce == Nonce::default() => core.found(&self.names).await?,
                state => state,
            };
            let known = {
                let mut state = self.state.lock();
                if state.history.is_none() {
                    state.history = Some(History::new(revision, &self.histories));
                    (state.tip, state.nonce, state.begun) = (revision, nonce, revision);
                }
                (state.tip, state.nonce)
            };
            let right = match revision.cmp(&known.0) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => revision == Revision(0) || nonce == known.1,
                std::cmp::Ordering::Greater => self.read_on(core, revision).await?,
            };
            if !right {
                return Ok(Some(revision));
            }
            if self.state.lock().release(self.retention) {
                return Ok(None);
            }
        }
    }

    /// Reads the stream up to `revision` at least. False if it does not go on from what was seen.
    async fn read_on(&self, core: &Core, revision: Revision) -> Result<bool, Error> {
        loop {
            let (tip, seen, begun) = {
                let state = self.state.lock();
                (state.tip, state.nonce, state.begun)
            };
            let from = tip.max(Revision(1));
            let frames = self.page(core, from).await?;
            let Some(first) = frames.first() else { return Ok(false) };
            let goes_on = if first.first() > from {
                // A keyspace that begins at a floor has nothing before its first commit.
                tip == begun && first.first().0 == tip.0 + 1
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
    async fn page(&self, core: &Core, revision: Revision) -> Result<Vec<Frame>, Error> {
        let mut cmd = redis::cmd("XRANGE");
        self.names.pass(&mut cmd, &[STREAM]);
        cmd.arg(format!("{revision}-0")).arg("+").arg("COUNT").arg(PAGE);
        let (answer, _) = core.nodes.call(self.names.slot, &cmd, Asked::Read).await?;
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
    /// Tells whether there are watches, or one is about to begin.
    fn is_followed(&self) -> bool {
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

    /// Leaves it to somebody else to catch up.
    fn give_up(&mut self) {
        self.held = None;
        self.stale = true;
    }

    /// Takes the frames that were held. False if something is missing: then they are held again.
    fn release(&mut self, retention: Retention) -> bool {
        let held = self.held.take().unwrap_or_default();
        if held.overflow || !held.frames.into_iter().all(|frame| self.append(frame, retention)) {
            self.held = Some(Held::default());
            return false;
        }
        self.stale = false;
        true
    }
}

// === impl Holding ===

impl<'a> Holding<'a> {
    fn begin(feed: &'a Feed, told: &'a Told) -> Self {
        feed.state.lock().held = Some(Held::default());
        Self { feed, told, over: false }
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.feed.state.lock().give_up();
            self.told.attention.notify_one();
        }
    }
}

// === impl Held ===

impl Held {
    fn push(&mut self, frame: Frame, bytes: usize, bytes_max: usize) {
        self.bytes += bytes;
        if self.frames.len() == HELD_MAX || self.bytes > bytes_max {
            self.overflow = true;
            self.frames.clear();
        }
        if !self.overflow {
            self.frames.push_back(frame);
        }
    }
}

// === impl Ear ===

impl AsyncPushSender for Ear {
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
                let feed = self.told.channels.read().get(&channel[..]).cloned();
                let Some(feed) = feed else { return Ok(()) };
                let bytes = frame.len();
                // What cannot be read here cannot be read from the stream, either: the keeper will say so.
                let taken = Frame::decode(frame.into()).map(|frame| feed.take(frame, bytes));
                if taken.is_err() {
                    feed.state.lock().stale = true;
                }
                if taken.unwrap_or(true) {
                    self.told.attention.notify_one();
                }
            }
            PushKind::Disconnection => {
                self.broken.cancel();
                self.told.attention.notify_one();
            }
            PushKind::SUnsubscribe => {
                // Not asked for if the feed is still there: its slot went to another node.
                let channel = match push.data.first() {
                    Some(Value::BulkString(channel)) => Some(channel),
                    _ => None,
                };
                if channel.is_some_and(|channel| self.told.channels.read().contains_key(&channel[..])) {
                    self.broken.cancel();
                    self.told.attention.notify_one();
                }
            }
            _ => {}
        }
        Ok(())
    }
}
