// SPDX-License-Identifier: Apache-2.0
//! A set of text.

use std::sync::Arc;
use std::time::Duration;

use atomix_proto::set as wire;
use wire::event::Event as EventArm;
use wire::set_client::SetClient;

use crate::client::Client;
use crate::error::{Access, Kind, Result};
use crate::open::{OpenRequest, PrimitiveClient, Service, awaitable, rpc, service};
use crate::stream::{Listing, Subscription};
use crate::versioned::duration;

static SERVICE: Service = service!("Set", set, sets_client::SetsClient);

/// A set of text, each element perhaps with a time to live. Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
#[derive(Debug, Clone)]
pub struct Set {
    primitive: Arc<PrimitiveClient>,
}

/// A change of a set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// An element is new.
    Added {
        /// The element.
        element: String,
    },
    /// An element is gone.
    Removed {
        /// The element.
        element: String,
        /// Whether its time to live was over.
        expired: bool,
    },
}

/// Adds an element; `.await` it for whether the element is new.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Add {
    primitive: Arc<PrimitiveClient>,
    element: String,
    ttl: Option<Duration>,
}

awaitable!(Add -> bool);

// === impl Client ===

impl Client {
    /// Opens a set of text.
    pub fn set(&self, name: impl Into<String>) -> OpenRequest<Set> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Set { primitive })
    }
}

// === impl Set ===

impl Set {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the number of elements.
    pub async fn size(&self) -> Result<u32> {
        let request = wire::SizeRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(SetClient.size)).await?.size)
    }

    /// Returns whether `element` is in the set.
    pub async fn contains(&self, element: impl Into<String>) -> Result<bool> {
        let request = wire::ContainsRequest {
            id: self.primitive.id(),
            element: Some(wire::Element { value: element.into() }),
        };
        Ok(self.primitive.call(Access::Read, request, rpc!(SetClient.contains)).await?.contains)
    }

    /// Adds `element`. If it is there already nothing changes, its time to live included.
    pub fn add(&self, element: impl Into<String>) -> Add {
        Add { primitive: Arc::clone(&self.primitive), element: element.into(), ttl: None }
    }

    /// Removes `element` and returns whether it was there.
    pub async fn remove(&self, element: impl Into<String>) -> Result<bool> {
        let request = wire::RemoveRequest {
            id: self.primitive.id(),
            element: Some(wire::Element { value: element.into() }),
        };
        match self.primitive.call(Access::Write, request, rpc!(SetClient.remove)).await {
            Ok(response) => Ok(response.removed),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all elements.
    pub async fn clear(&self) -> Result<()> {
        let request = wire::ClearRequest { id: self.primitive.id() };
        self.primitive.call(Access::Write, request, rpc!(SetClient.clear)).await?;
        Ok(())
    }

    /// Lists the elements, in no particular order.
    pub fn elements(&self) -> Listing<String> {
        let primitive = Arc::clone(&self.primitive);
        Listing::new(move |watch| async move {
            let request = wire::ElementsRequest { id: primitive.id(), watch };
            let convert = |response: wire::ElementsResponse| Ok(response.element.unwrap_or_default().value);
            primitive.stream(request, rpc!(SetClient.elements), convert).await
        })
    }

    /// Subscribes to the changes. When the call returns no later change is missed.
    pub async fn events(&self) -> Result<Subscription<Event>> {
        let request = wire::EventsRequest { id: self.primitive.id() };
        let convert = |response: wire::EventsResponse| Ok(response.event.and_then(event));
        self.primitive.acknowledged(request, rpc!(SetClient.events), convert).await
    }

    /// Ends the use of the set by this client, clones of this handle included. The content stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

fn event(event: wire::Event) -> Option<Event> {
    let element = |element: Option<wire::Element>| element.unwrap_or_default().value;
    event.event.map(|arm| match arm {
        EventArm::Added(arm) => Event::Added { element: element(arm.element) },
        EventArm::Removed(arm) => Event::Removed { element: element(arm.element), expired: arm.expired },
    })
}

// === impl Add ===

impl Add {
    /// Removes the element after this time. Default: it stays.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn send(self) -> Result<bool> {
        let Self { primitive, element, ttl } = self;
        let element = Some(wire::Element { value: element });
        let request = wire::AddRequest { id: primitive.id(), element, ttl: ttl.map(duration) };
        match primitive.call(Access::Write, request, rpc!(SetClient.add)).await {
            Ok(response) => Ok(response.added),
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}
