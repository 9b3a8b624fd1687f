// SPDX-License-Identifier: Apache-2.0
//! Leader election.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atomix_proto::election as wire;
use wire::leader_election_client::LeaderElectionClient;

use crate::client::{Client, Limit};
use crate::error::{Access, Error, Kind, Result};
use crate::fence::Fence;
use crate::open::{OpenRequest, PrimitiveClient, Service, rpc, service};
use crate::stream::Subscription;

static SERVICE: Service =
    service!("LeaderElection", election, leader_elections_client::LeaderElectionsClient);

/// An ordered queue of candidates of which the first leads. Cheap to clone.
///
/// Every call answers with the term after it. A change that is not possible, such as promoting an unknown candidate,
/// has no effect and is no error. Calls that change something may be applied although they were given up.
#[derive(Debug, Clone)]
pub struct Election {
    primitive: Arc<PrimitiveClient>,
}

/// A term: the leader and the waiting candidates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Term {
    /// Counts the changes of the leader; 0 before the first. Good as a fencing token.
    pub number: u64,
    /// The candidate that leads.
    pub leader: Option<String>,
    /// The candidates that wait, in their order.
    pub candidates: Vec<String>,
}

/// A candidate that stands for election. When it is dropped the candidate withdraws in the background.
///
/// The candidacy belongs to the connection of the client: when that ends, the server removes the candidate, and the
/// methods fail with [`Kind::Unavailable`].
#[derive(Debug)]
#[must_use = "dropping the candidacy withdraws"]
pub struct Candidacy {
    primitive: Arc<PrimitiveClient>,
    candidate: String,
    terms: Subscription<Term>,
    term: Term,
    /// Whether the watch has caught up with the entry.
    joined: bool,
    withdrawn: bool,
}

/// Makes the six calls that name a candidate, which differ in their names only.
macro_rules! candidate_calls {
    ($($(#[$doc:meta])* $method:ident $Request:ident $Access:ident;)*) => {
        $(
            $(#[$doc])*
            pub async fn $method(&self, candidate: impl Into<String>) -> Result<Term> {
                let request = wire::$Request { id: self.primitive.id(), candidate: candidate.into() };
                let response = self.primitive.call(Access::$Access, request, rpc!(LeaderElectionClient.$method)).await?;
                Ok(term(response.term))
            }
        )*
    };
}

// === impl Client ===

impl Client {
    /// Opens a leader election.
    pub fn election(&self, name: impl Into<String>) -> OpenRequest<Election> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Election { primitive })
    }
}

// === impl Election ===

impl Election {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    candidate_calls! {
        /// Puts `candidate` at the end of the queue, owned by this client. The first one leads immediately.
        ///
        /// The name is sent as it is, and a [`Term`] shows names only: while another client has entered the same name,
        /// neither can see which of them leads. [`Election::candidacy`] enters a name that no other client has.
        enter EnterRequest Session;
        /// Removes `candidate` if it is owned by this client.
        withdraw WithdrawRequest Session;
        /// Makes the waiting `candidate` the leader; the old leader becomes the first waiting candidate.
        anoint AnointRequest Write;
        /// Moves `candidate` one place forward.
        promote PromoteRequest Write;
        /// Moves `candidate` one place back.
        demote DemoteRequest Write;
        /// Removes `candidate` of any owner.
        evict EvictRequest Write;
    }

    /// Returns the current term. Cancel safe.
    pub async fn term(&self) -> Result<Term> {
        let request = wire::GetTermRequest { id: self.primitive.id() };
        let response =
            self.primitive.call(Access::Read, request, rpc!(LeaderElectionClient.get_term)).await?;
        Ok(term(response.term))
    }

    /// Subscribes to the terms: first the current one unless its number is 0, then every change.
    pub async fn watch(&self) -> Result<Subscription<Term>> {
        let request = wire::WatchRequest { id: self.primitive.id() };
        let convert = |response: wire::WatchResponse| Ok(term(response.term));
        self.primitive.stream(request, rpc!(LeaderElectionClient.watch), convert).await
    }

    /// Enters a candidate whose name begins with `name`, and watches its terms.
    ///
    /// The name gets a random suffix, such as `worker-1-3f9a0c1b22d4`: a term shows names only, and two clients under one
    /// name, such as two processes on hosts of the same name, would both take the lead for their own.
    /// [`Candidacy::candidate`] returns the whole name, which [`Election::anoint`] and the other calls need.
    ///
    /// A call that is given up may leave the candidate in the queue until the connection of the client ends.
    pub async fn candidacy(&self, name: impl Into<String>) -> Result<Candidacy> {
        let name = name.into();
        let suffix = AtomicU64::new(0);
        let candidate = || format!("{name}-{:012x}", suffix.load(Ordering::Relaxed));
        // First the watch, so that no change after the entry is missed.
        let terms = self.watch().await?;
        let request = || {
            // An attempt whose connection broke may have left its candidate with the session before. The server keeps
            // that candidate until it notices, and this client no longer owns it: each attempt has a unique name.
            suffix.store(self.primitive.client().env().random() >> 16, Ordering::Relaxed);
            wire::EnterRequest { id: self.primitive.id(), candidate: candidate() }
        };
        let entered = self.primitive.call_within(
            Access::Session,
            Limit::Call,
            request,
            rpc!(LeaderElectionClient.enter),
        );
        let term = term(entered.await?.term);
        Ok(Candidacy {
            primitive: Arc::clone(&self.primitive),
            candidate: candidate(),
            terms,
            term,
            joined: false,
            withdrawn: false,
        })
    }

    /// Ends the use of the election by this client, clones of this handle included: its candidates are removed.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

fn term(term: Option<wire::Term>) -> Term {
    let term = term.unwrap_or_default();
    Term {
        number: term.term,
        leader: Some(term.leader).filter(|leader| !leader.is_empty()),
        candidates: term.candidates,
    }
}

// === impl Term ===

impl Term {
    /// Returns whether `candidate` leads or waits.
    pub fn stands(&self, candidate: &str) -> bool {
        self.leader.as_deref() == Some(candidate)
            || self.candidates.iter().any(|waiting| waiting == candidate)
    }
}

// === impl Candidacy ===

impl Candidacy {
    /// Returns the whole name of the candidate, with its suffix.
    pub fn candidate(&self) -> &str {
        &self.candidate
    }

    /// Returns the last term that is known.
    pub fn term(&self) -> &Term {
        &self.term
    }

    /// Returns the fence of the leader in this term, for [`fenced`](crate::fenced); `None` if the candidate does not lead.
    pub fn fence(&self) -> Option<Fence> {
        self.leads().then(|| Fence::election(self.primitive.name(), self.term.number))
    }

    /// Returns whether the candidate leads, as far as is known.
    pub fn leads(&self) -> bool {
        self.term.leader.as_deref() == Some(self.candidate.as_str())
    }

    /// Waits for the next term, or change of the waiting candidates. Cancel safe.
    ///
    /// Fails with [`Kind::Unavailable`] if the connection ended.
    pub async fn changed(&mut self) -> Result<Term> {
        self.advance().await?;
        Ok(self.term.clone())
    }

    /// Waits until the candidate leads and returns the term. Cancel safe.
    ///
    /// Fails with [`Kind::Conflict`] if the candidate was evicted, with [`Kind::Unavailable`] if the connection ended.
    pub async fn elected(&mut self) -> Result<Term> {
        while !self.leads() {
            if !self.term.stands(&self.candidate) {
                return Err(Error::new(
                    Kind::Conflict,
                    "candidate is not in the queue any more, enter again",
                ));
            }
            self.advance().await?;
        }
        Ok(self.term.clone())
    }

    /// Waits until the candidate does not lead any more and returns the term of the next leader. Cancel safe.
    ///
    /// Fails with [`Kind::Unavailable`] if the connection ended, which ends the leadership too.
    pub async fn deposed(&mut self) -> Result<Term> {
        let led = self.term.number;
        while self.leads() && self.term.number == led {
            self.advance().await?;
        }
        Ok(self.term.clone())
    }

    async fn advance(&mut self) -> Result<()> {
        loop {
            let term = match self.terms.next().await {
                Some(term) => term?,
                None => return Err(Error::new(Kind::Cancelled, "election was closed by this client")),
            };
            // The watch was there before the entry: what comes first may be older than the answer to it, and one
            // message repeats it.
            self.joined = self.joined || term.stands(&self.candidate) || term.number > self.term.number;
            if self.joined && term != self.term {
                self.term = term;
                return Ok(());
            }
        }
    }

    /// Withdraws the candidate and returns the term after that. A call that is given up goes on in the background.
    pub async fn withdraw(mut self) -> Result<Term> {
        let election = Election { primitive: Arc::clone(&self.primitive) };
        let result = election.withdraw(self.candidate.clone()).await;
        self.withdrawn = true;
        result
    }
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        if self.withdrawn || self.primitive.connection().is_none() {
            return;
        }
        let (election, candidate) =
            (Election { primitive: Arc::clone(&self.primitive) }, std::mem::take(&mut self.candidate));
        self.primitive.client().runtime().spawn(async move {
            // On failure the candidacy ends with the connection.
            election.withdraw(candidate).await.ok();
        });
    }
}
