// SPDX-License-Identifier: Apache-2.0
//! The bare client, without batches and sums: the baseline of the measurements.

use std::sync::Arc;

use atomix_env::Env;
use atomix_store::{Error, number, number_bytes};
use bytes::Bytes;

use crate::config::Settings;
use crate::error::Failure;
use crate::plan;
use crate::store::Core;
use crate::wire::compare::{Result as Is, Target, TargetUnion};
use crate::wire::kv_client::KvClient;
use crate::wire::{Compare, PutRequest, RequestOp, TxnRequest, request_op};

/// One request for each call.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
}

// === impl Client ===

impl Client {
    /// Connects to the cluster.
    pub async fn connect(settings: Settings, env: Env) -> Result<Self, Error> {
        let core = Arc::new(Core::new(settings, env));
        core.link.connection().await?;
        Ok(Self { core })
    }

    /// Puts a key.
    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Error> {
        let request = PutRequest { key, value, prev_kv: false, lease: 0 };
        let response = self.core.link.call(request, |connection, request| {
            Box::pin(async move {
                let origin = connection.origin();
                KvClient::with_origin(connection, origin).put(request).await
            })
        });
        response.await.map(drop).map_err(Failure::of_write)
    }

    /// Gets a key.
    pub async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Error> {
        let response = self.core.range(plan::get(key)).await?;
        Ok(response.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// Adds to a number by reading and a guarded write, until there is no conflict.
    pub async fn add(&self, key: Bytes, delta: i64) -> Result<i64, Error> {
        loop {
            let found = self.core.range(plan::get(key.clone())).await?.kvs.into_iter().next();
            let before = found.as_ref().and_then(|kv| number(&kv.value)).unwrap_or(0);
            let same = Compare {
                result: Is::Equal.into(),
                target: Target::Mod.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::ModRevision(found.map_or(0, |kv| kv.mod_revision))),
                ..Compare::default()
            };
            let after = before.wrapping_add(delta);
            let put = PutRequest { key: key.clone(), value: number_bytes(after), prev_kv: false, lease: 0 };
            let put = RequestOp { request: Some(request_op::Request::Put(put)) };
            let request = TxnRequest { compare: vec![same], success: vec![put], ..TxnRequest::default() };
            if self.core.txn(request, usize::MAX).await.map_err(Failure::of_write)?.succeeded {
                return Ok(after);
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("link", &self.core.link).finish()
    }
}
