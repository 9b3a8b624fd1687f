// SPDX-License-Identifier: Apache-2.0
//! The same calls when there is a thousand times more of everything.

use anyhow::Result;
use atomix_load::work::{Mix, Op, Subject};
use futures::future::try_join_all;
use serde_json::json;

use crate::compare::harness::{Harness, Load, subject};

const LOAD: (usize, usize) = (8, 64);

fn named(name: &str, keys: u64) -> Subject {
    Subject { name: name.to_owned(), ..subject(keys) }
}

pub(super) fn growth(harness: &mut Harness) -> Result<()> {
    let load = Load::closed(LOAD.0, LOAD.1);
    let server = harness.environment.atomix("memory", json!({}))?;
    let address = &server.tcp;
    let (entries, primitives, peers) =
        (1_000_000 / harness.shrink, 100_000 / harness.shrink, 10_000 / harness.shrink);

    for (what, keys) in [("a thousand entries", 1000), ("a million entries", entries)] {
        let map = named(&format!("map-{keys}"), keys);
        harness.work_on(&format!("{what}, get"), load, &server, address, Mix::only(Op::Get), &map)?;
        harness.work_on(&format!("{what}, put"), load, &server, address, Mix::only(Op::Put), &map)?;
    }
    for (what, keys) in [("ten counters", 10), ("a hundred thousand counters", primitives)] {
        let counters = named(&format!("counters-{keys}"), keys);
        harness.work_on(
            &format!("{what}, increment"),
            load,
            &server,
            address,
            Mix::only(Op::Increment),
            &counters,
        )?;
    }

    for bytes in [100, 1_000, 10_000, 100_000] {
        let values = Subject { value_bytes: bytes, ..named(&format!("values-{bytes}"), 100) };
        harness.work_on(
            &format!("values of {bytes} bytes, put"),
            load,
            &server,
            address,
            Mix::only(Op::Put),
            &values,
        )?;
    }
    for connections in [1, 2, 64] {
        let load = Load::closed(connections, LOAD.1);
        harness.work("a thousand entries, put", load, &server, address, Mix::only(Op::Put))?;
    }

    // A fresh one, so that nothing but connections and watches is many.
    let server = harness.environment.atomix("memory", json!({}))?;
    let address = &server.tcp;
    harness.work("ten connections, put", load, &server, address, Mix::only(Op::Put))?;
    let idle = usize::try_from(peers).expect("ten thousand");
    harness.calls("ten thousand connections, put", load, &server, async |env| {
        // They live as long as the runtime that this is called on.
        for _ in 0..idle.div_ceil(CONNECTING) {
            let opened = (0..CONNECTING.min(idle)).map(|_| atomix_load::Channel::connect(env, address));
            for channel in try_join_all(opened).await? {
                env.detach(async move {
                    let _open = channel;
                    std::future::pending::<()>().await;
                });
            }
        }
        Ok(subject(1000).work(env, address, load.connections, Mix::only(Op::Put)).await?)
    })?;
    harness.calls("ten thousand watches of another map, put", load, &server, async |env| {
        let watched = named("watched", 1);
        let works = watched.work(env, address, 10, Mix::only(Op::Put)).await?;
        let open = watched.watchers(&works, idle).await?;
        env.detach(async move {
            let _open = (works, open);
            std::future::pending::<()>().await;
        });
        Ok(subject(1000).work(env, address, load.connections, Mix::only(Op::Put)).await?)
    })
}

/// Connections that are opened at once.
const CONNECTING: usize = 100;
