// SPDX-License-Identifier: Apache-2.0
//! What is measured. The cells of a chapter alternate between the sides that are compared, and all chapters are gone
//! through once in every run, so that a machine that becomes slower or busier hits all of them.

mod calls;
mod elect;
mod events;
mod growth;
mod hot;
mod sizes;

use anyhow::Result;

use crate::compare::lab::Lab;

/// A part of the comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chapter {
    /// What it is chosen by.
    pub(crate) name: &'static str,
    /// What stands over its table.
    pub(crate) title: &'static str,
    /// Goes through its cells once.
    pub(crate) measure: fn(&mut Lab) -> Result<()>,
}

/// All chapters.
pub(crate) const ALL: [Chapter; 13] = [
    Chapter { name: "memory", title: "Memory store beside a bare tonic server", measure: calls::memory },
    Chapter { name: "threads", title: "Thread layouts of a bare tonic server", measure: calls::threads },
    Chapter { name: "redis", title: "On Redis", measure: calls::redis },
    Chapter { name: "etcd", title: "On etcd, its data in memory", measure: calls::etcd },
    Chapter { name: "disk", title: "On the disk", measure: calls::disk },
    Chapter { name: "paced", title: "1,000 calls a second on 16 connections", measure: calls::paced },
    Chapter { name: "lock", title: "A lock changes hands", measure: events::lock },
    Chapter { name: "elect", title: "A leader is gone", measure: elect::elect },
    Chapter { name: "watch", title: "1,000 watchers on 10 connections", measure: events::watch },
    Chapter { name: "neighbours", title: "Catching up, and a noisy neighbour", measure: events::neighbours },
    Chapter { name: "sizes", title: "Memory, start, size", measure: sizes::sizes },
    Chapter { name: "growth", title: "Growth", measure: growth::growth },
    Chapter { name: "hot", title: "Instructions and allocations of hot paths", measure: hot::hot },
];
