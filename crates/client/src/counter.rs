// SPDX-License-Identifier: Apache-2.0
//! One number, shared.

use std::sync::Arc;

use atomix_proto::counter::counter_client::CounterClient;
use atomix_proto::counter::{DecrementRequest, GetRequest, IncrementRequest, SetRequest, UpdateRequest};

use crate::client::Client;
use crate::error::{Access, Result};
use crate::open::{OpenRequest, PrimitiveClient, Service, rpc, service};

static SERVICE: Service = service!("Counter", counter, counters_client::CountersClient);

/// A signed 64-bit number that begins with 0 and wraps around. Cheap to clone.
///
/// No call is cancel safe except [`Counter::get`]: a write that was begun may be applied.
#[derive(Debug, Clone)]
pub struct Counter {
    primitive: Arc<PrimitiveClient>,
}

// === impl Client ===

impl Client {
    /// Opens a counter: one number.
    pub fn counter(&self, name: impl Into<String>) -> OpenRequest<Counter> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Counter { primitive })
    }
}

impl Counter {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the value.
    pub async fn get(&self) -> Result<i64> {
        let request = GetRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(CounterClient.get)).await?.value)
    }

    /// Sets the value and returns it.
    pub async fn set(&self, value: i64) -> Result<i64> {
        let request = SetRequest { id: self.primitive.id(), value };
        Ok(self.primitive.call(Access::Write, request, rpc!(CounterClient.set)).await?.value)
    }

    /// Sets the value to `update` if it is `check`, and returns it.
    ///
    /// Fails with [`Kind::Conflict`](crate::Kind::Conflict) if it is not.
    pub async fn update(&self, check: i64, update: i64) -> Result<i64> {
        let request = UpdateRequest { id: self.primitive.id(), check, update };
        Ok(self.primitive.call(Access::Write, request, rpc!(CounterClient.update)).await?.value)
    }

    /// Adds `delta` and returns the new value.
    pub async fn increment(&self, delta: i64) -> Result<i64> {
        let request = IncrementRequest { id: self.primitive.id(), delta };
        Ok(self.primitive.call(Access::Write, request, rpc!(CounterClient.increment)).await?.value)
    }

    /// Subtracts `delta` and returns the new value.
    pub async fn decrement(&self, delta: i64) -> Result<i64> {
        let request = DecrementRequest { id: self.primitive.id(), delta };
        Ok(self.primitive.call(Access::Write, request, rpc!(CounterClient.decrement)).await?.value)
    }

    /// Ends the use of the counter by this client, clones of this handle included. The value stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}
