// SPDX-License-Identifier: Apache-2.0
//! Streams of a primitive: later changes, and listings that go on as changes.
//!
//! A record that cannot be read ends a stream with [`crate::Reason::StoreCorrupt`]: nothing is skipped.
//!
//! Both are pulled by the reader. Nothing is queued per reader: a reader that is too slow falls out of the store's
//! history, and its stream ends with [`crate::Reason::WatchOverrun`].

use std::future::ready;

use atomix_store::{Change, Commit, Entry, Range, Revision, WatchFrom, WatchItem, WatchStream};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::error::{Error, Reason};
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;

/// A stream of a primitive. Ends without an error when the caller closes the primitive, its session ends, or the store
/// is disconnected; ends after the first error.
pub type Events<T> = BoxStream<'static, Result<T, Error>>;

/// Follows all commits after this call. When it returns, the watch is registered: nothing later is missed.
pub(crate) async fn changes<T, F>(
    backing: &Backing,
    caller: &Caller,
    mut decode: F,
) -> Result<Events<T>, Error>
where
    T: Send + 'static,
    F: FnMut(&Commit) -> Result<Vec<T>, Error> + Send + 'static,
{
    let (watch, _) = begin(backing).await?;
    let items = watch.map(move |item| match item {
        Ok(WatchItem::Commit(commit)) => decode(&commit),
        Ok(WatchItem::Progress(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    });
    Ok(until_closed(items.boxed(), caller))
}

/// Lists the entries of a range, in the order of their keys, and with `watch` goes on with their changes.
///
/// Every change is seen once: in the listing or after it. Long ranges are read page by page; pages may be of different
/// moments, and a change is brought if it is younger than the page of its key.
pub(crate) async fn listing<T, I, C>(
    backing: &Backing,
    caller: &Caller,
    range: Range,
    watch: bool,
    item: I,
    change: C,
) -> Result<Events<T>, Error>
where
    T: Send + 'static,
    I: Fn(&Entry) -> Result<Option<T>, Error> + Send + 'static,
    C: Fn(&Change) -> Result<Option<T>, Error> + Send + 'static,
{
    let watch = if watch { Some(begin(backing).await?.0) } else { None };
    let rest = Progress::Listing(range.clone());
    let mut listing =
        Listing { backing: backing.clone(), range, rest, pages: Vec::new(), watch, item, change };
    // The first page is read now and not when the reader asks: what is changed after this call is shown as a change.
    let first = listing.step().await?;
    let rest = stream::unfold(Some(listing), |listing| async move {
        let mut listing = listing?;
        match listing.step().await {
            Ok(Some(items)) => Some((Ok(items), Some(listing))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let steps = stream::iter(first.map(Ok)).chain(rest);
    Ok(until_closed(steps.boxed(), caller))
}

struct Listing<I, C> {
    backing: Backing,
    range: Range,
    rest: Progress,
    /// The last key and the moment of each page that was read. A missing key stands for the end of the range.
    pages: Vec<(Option<Bytes>, Revision)>,
    watch: Option<WatchStream>,
    item: I,
    change: C,
}

enum Progress {
    /// This much of the range was not read yet.
    Listing(Range),
    Listed,
}

// === impl Listing ===

impl<I, C> Listing<I, C> {
    async fn step<T>(&mut self) -> Result<Option<Vec<T>>, Error>
    where
        I: Fn(&Entry) -> Result<Option<T>, Error>,
        C: Fn(&Change) -> Result<Option<T>, Error>,
    {
        match &self.rest {
            Progress::Listing(rest) => self.page(rest.clone()).await.map(Some),
            Progress::Listed => self.follow().await,
        }
    }

    async fn page<T>(&mut self, range: Range) -> Result<Vec<T>, Error>
    where
        I: Fn(&Entry) -> Result<Option<T>, Error>,
    {
        let mut pages = self.backing.scan_all(range, false);
        let Some(page) = pages.next().await? else { return Ok(Vec::new()) };
        let (last, rest) = (page.entries.last().map(|entry| entry.key.clone()), pages.into_rest());
        let last = last.filter(|_| rest.is_some());
        self.rest = rest.map_or(Progress::Listed, Progress::Listing);
        self.pages.push((last, page.revision));
        page.entries.iter().filter_map(|entry| (self.item)(entry).transpose()).collect()
    }

    async fn follow<T>(&mut self) -> Result<Option<Vec<T>>, Error>
    where
        C: Fn(&Change) -> Result<Option<T>, Error>,
    {
        let Some(watch) = &mut self.watch else {
            return Ok(None);
        };
        let Some(item) = watch.next().await else {
            return Ok(None);
        };
        let WatchItem::Commit(commit) = item? else {
            return Ok(Some(Vec::new()));
        };
        let fresh = commit.changes.iter().filter(|change| self.range.contains(&change.key));
        let items = fresh
            .filter(|change| !self.listed(&change.key, commit.revision))
            .filter_map(|change| (self.change)(change).transpose());
        let items = items.collect::<Result<_, _>>()?;
        if self.pages.iter().all(|(_, revision)| *revision <= commit.revision) {
            self.pages.clear();
        }
        Ok(Some(items))
    }

    /// Returns whether the listing has shown the state of `key` as of `revision` or later.
    fn listed(&self, key: &Bytes, revision: Revision) -> bool {
        let page = self.pages.iter().find(|(last, _)| last.as_ref().is_none_or(|last| key <= last));
        page.is_some_and(|(_, at)| revision <= *at)
    }
}

/// Registers a watch and returns it with the revision after which it is complete.
pub(crate) async fn begin(backing: &Backing) -> Result<(WatchStream, Revision), Error> {
    registered(backing.watch(WatchFrom::Now).await?).await
}

/// Takes from a watch that begins now the revision after which it is complete.
pub(crate) async fn registered(mut watch: WatchStream) -> Result<(WatchStream, Revision), Error> {
    match watch.next().await {
        Some(Ok(WatchItem::Progress(revision))) => Ok((watch, revision)),
        Some(Ok(WatchItem::Commit(_))) | None => {
            Err(Error::new(Reason::Internal, "a watch did not begin with its revision"))
        }
        Some(Err(error)) => Err(error.into()),
    }
}

/// Flattens steps and ends them as [`Events`] promises.
pub(crate) fn until_closed<T: Send + 'static>(
    steps: BoxStream<'static, Result<Vec<T>, Error>>,
    caller: &Caller,
) -> Events<T> {
    steps
        .take_while(|step| ready(!matches!(step, Err(error) if error.reason() == Reason::StoreClosed)))
        .flat_map(|step| {
            let (items, error) = match step {
                Ok(items) => (items, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            stream::iter(items.into_iter().map(Ok).chain(error.map(Err)))
        })
        .take_until(caller.closed.clone().cancelled_owned())
        .boxed()
}
