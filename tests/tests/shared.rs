// SPDX-License-Identifier: Apache-2.0
//! Processes of the real program on one etcd and one Redis: one is killed, one is paused and resumes too late.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::path::Path;
use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_proto::lock;
use atomix_proto::runtime::PrimitiveId;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use lock::lock_client::LockClient;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

/// The shortest timeout that may be set.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of an expected event.
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

type Client = LockClient<Channel>;

/// Starts a process on the store of this configuration.
fn start(folder: &Path, store: &str) -> Server {
    let file = folder.join("atomix.yaml");
    std::fs::write(&file, format!("sessions: {{ timeout: 1s }}\nstores: [{store}]\n")).unwrap();
    Server::start_with(&["--config", file.to_str().unwrap()])
}

async fn client(server: &Server) -> Client {
    let channel = Channel::from_shared(format!("http://{}", server.listen())).unwrap();
    LockClient::new(channel.connect().await.unwrap())
}

fn lock_id() -> PrimitiveId {
    PrimitiveId { name: "l".to_owned() }
}

/// Creates the lock, for which the store may have to be reached first.
async fn create(client: &mut Client) {
    let begin = Instant::now();
    loop {
        match client.create(lock::CreateRequest { id: Some(lock_id()), tags: Vec::new() }).await {
            Ok(_) => return,
            Err(status) if status.code() == Code::Unavailable && begin.elapsed() < WAIT_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(status) => panic!("{status}"),
        }
    }
}

async fn take(client: &mut Client) -> Result<u64, tonic::Status> {
    Ok(client.lock(lock::LockRequest { id: Some(lock_id()), timeout: None }).await?.into_inner().version)
}

async fn killed_and_paused(store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, second) = (start(folder.path(), store), start(folder.path(), store));
    let (mut one, mut two) = (client(&first).await, client(&second).await);
    create(&mut one).await;
    create(&mut two).await;

    // Killed: a waiter of the other runtime is next.
    let token = take(&mut one).await.unwrap();
    let waiting = tokio::spawn(async move { (take(&mut two).await, two) });
    second.until_waiting(1).await;
    let killed = Instant::now();
    first.kill();
    let (next, mut two) = tokio::time::timeout(WAIT_TIMEOUT, waiting).await.unwrap().unwrap();
    let (next, waited) = (next.unwrap(), killed.elapsed());
    assert!(next > token);
    assert!(waited > TIMEOUT / 2, "it was granted before the timeout: {waited:?}");

    // Started again: the client goes on without creating the lock anew, and waits for its turn.
    let first = start(folder.path(), store);
    let mut one = client(&first).await;
    let again = tokio::spawn(async move {
        loop {
            match take(&mut one).await {
                Err(status) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                granted => return (granted, one),
            }
        }
    });
    first.until_waiting(1).await;
    two.unlock(lock::UnlockRequest { id: Some(lock_id()) }).await.unwrap();
    let (token, mut one) = again.await.unwrap();
    let token = token.unwrap();
    assert!(token > next);

    // Paused: the same, and after it resumes it holds nothing.
    first.pause();
    let next = tokio::time::timeout(WAIT_TIMEOUT, take(&mut two)).await.unwrap().unwrap();
    assert!(next > token);
    first.resume();
    let refused = one.unlock(lock::UnlockRequest { id: Some(lock_id()) }).await.unwrap_err();
    // Or the end of the connection came first, which means the same.
    match refused.get_error_details().error_info() {
        Some(info) => assert_eq!(info.reason, "LOCK_NOT_HELD"),
        None => assert!(
            matches!(refused.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
            "{refused}"
        ),
    }
    let mut one = client(&first).await;
    let holder =
        one.get_lock(lock::GetLockRequest { id: Some(lock_id()) }).await.unwrap().into_inner().version;
    assert_eq!(holder, next);
    let waiting = tokio::spawn(async move { take(&mut one).await });
    first.until_waiting(1).await;
    assert!(!waiting.is_finished());
    two.unlock(lock::UnlockRequest { id: Some(lock_id()) }).await.unwrap();
    assert!(waiting.await.unwrap().unwrap() > next);
}

#[tokio::test]
async fn on_etcd_killed_and_paused_runtimes_lose_their_locks() {
    let etcd = Etcd::start(&[]).await;
    let endpoint = etcd.endpoint();
    killed_and_paused(&format!(
        "{{ name: s, driver: {{ name: etcd, version: v3 }}, config: {{ endpoints: ['{endpoint}'] }} }}"
    ))
    .await;
}

#[tokio::test]
async fn on_redis_killed_and_paused_runtimes_lose_their_locks() {
    let redis = Redis::start(&[]).await;
    let address = redis.address();
    killed_and_paused(&format!(
        "{{ name: s, driver: {{ name: redis, version: v1 }}, config: {{ address: '{address}' }} }}"
    ))
    .await;
}
