// SPDX-License-Identifier: Apache-2.0

use atomix_proto::lock::{GetLockRequest, LockRequest, UnlockRequest};

use crate::served::{Served, id, opened};

pub(crate) async fn call(served: &Served) {
    let mut lock = opened!(served, lock, lock_client::LockClient, locks_client::LocksClient);
    let mut token = 0;
    for _ in 0..2 {
        let granted = lock.lock(LockRequest { id: id("p"), timeout: None }).await.unwrap().into_inner();
        assert!(granted.version > token, "tokens grow");
        token = granted.version;
        let owned = lock.get_lock(GetLockRequest { id: id("p") }).await.unwrap().into_inner();
        assert_eq!(owned.version, token);
        lock.unlock(UnlockRequest { id: id("p") }).await.unwrap();
    }
}
