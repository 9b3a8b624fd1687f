// SPDX-License-Identifier: Apache-2.0
//! A store that is sealed because it is empty stays empty, whatever is written at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atomix_driver_memory::{MemoryStore, Settings};
use atomix_store::{ErrorKind, Keyspace, Range, Read, Store, Txn, Write};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Returns the result of a call, which this store gives at once.
fn now<T>(call: BoxFuture<'_, T>) -> T {
    call.now_or_never().expect("the store answers at once")
}

fn put(key: String) -> Txn {
    Txn::new().write(Write::Put { key: key.into(), value: "v".into() })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "threads race here")]
fn a_commit_is_counted_or_refused() {
    let (mut sealed, mut kept) = (0, 0);
    for round in 0..2_000 {
        let store = Arc::new(MemoryStore::new(Settings::default()));
        let begun = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let (store, begun) = (Arc::clone(&store), Arc::clone(&begun));
            move || {
                begun.store(true, Ordering::SeqCst);
                // In turn too late and in time.
                for _ in 0..round % 64 {
                    std::hint::spin_loop();
                }
                now(store.commit(&Keyspace::new("map/a"), put("k".to_owned())))
            }
        });
        while !begun.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        let holding = now(store.seal_if_empty(&|_| true)).unwrap();
        let written = writer.join().unwrap();
        let count = vec![Read::Count { range: Range::prefix("") }];
        let found = now(store.read(&Keyspace::new("map/a"), count)).unwrap().reads[0].count();
        if holding == 0 {
            assert_eq!(written.unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(found, 0);
            sealed += 1;
        } else {
            // A commit between the seal and the look is refused only if the store is sealed in the end.
            assert_eq!(found, u64::from(written.is_ok()));
            kept += 1;
        }
    }
    assert_eq!(sealed + kept, 2_000);
}

#[test]
fn what_is_not_counted_is_no_reason_and_a_seal_lasts() {
    let store = MemoryStore::new(Settings::default());
    now(store.commit(&Keyspace::new("known"), put("k".to_owned()))).unwrap();
    now(store.commit(&Keyspace::new("map/a"), put("k".to_owned()))).unwrap();
    let primitives = |keyspace: &Keyspace| keyspace.as_bytes().starts_with(b"map/");
    assert_eq!(now(store.seal_if_empty(&primitives)).unwrap(), 1);
    let clear = Txn::new().write(Write::DeleteRange { range: Range::prefix("") });
    now(store.commit(&Keyspace::new("map/a"), clear)).unwrap();
    for _ in 0..2 {
        assert_eq!(now(store.seal_if_empty(&primitives)).unwrap(), 0);
        let refused = now(store.commit(&Keyspace::new("map/a"), put("k".to_owned())));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
