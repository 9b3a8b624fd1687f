// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.lock.v1`.

use atomix_primitives::{Kind, Lock};
use atomix_proto::lock;
use tonic::{Request, Response, Status};

use crate::call::{Services, call, create_and_close, services};
use crate::convert::duration;
use crate::handover::HandOver;
use crate::status::status;

services!(lock::lock_server::LockServer, lock::locks_server::LocksServer);

#[tonic::async_trait]
impl lock::locks_server::Locks for Services {
    create_and_close!(Kind::Lock, lock, |_config| lock::Config {});
}

#[tonic::async_trait]
impl lock::lock_server::Lock for Services {
    create_and_close!(Kind::Lock, lock, |_config| lock::Config {});

    async fn lock(
        &self,
        request: Request<lock::LockRequest>,
    ) -> Result<Response<lock::LockResponse>, Status> {
        let handover = HandOver::begin(self.runtime.env(), &request);
        let (lock, request) = call!(self, Lock, request);
        let caller = handover.limit(lock.caller());
        let grant = lock.grant(&caller, duration(request.timeout)).await.map_err(status)?;
        let answer = lock::LockResponse { version: grant.token() };
        Ok(handover.answer(answer, grant))
    }

    async fn unlock(
        &self,
        request: Request<lock::UnlockRequest>,
    ) -> Result<Response<lock::UnlockResponse>, Status> {
        let (lock, _) = call!(self, Lock, request);
        lock.unlock(&lock.caller()).await.map_err(status)?;
        Ok(Response::new(lock::UnlockResponse {}))
    }

    async fn get_lock(
        &self,
        request: Request<lock::GetLockRequest>,
    ) -> Result<Response<lock::GetLockResponse>, Status> {
        let (lock, _) = call!(self, Lock, request);
        Ok(Response::new(lock::GetLockResponse { version: lock.token().await.map_err(status)? }))
    }
}
