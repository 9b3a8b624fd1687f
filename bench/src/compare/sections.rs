// SPDX-License-Identifier: Apache-2.0
//! The sections of the comparison. The cells of a section alternate between the sides that are compared, and all sections are gone
//! through once in every run, so that a machine that becomes slower or busier hits all of them.

mod calls;
mod elect;
mod events;
mod growth;
mod hot;
mod sizes;

use anyhow::Result;

use crate::compare::harness::Harness;

/// A part of the comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    /// The name by which it is chosen.
    pub(crate) name: &'static str,
    /// The title of its table.
    pub(crate) title: &'static str,
    /// Goes through its cells once.
    pub(crate) measure: fn(&mut Harness) -> Result<()>,
}

/// All sections.
pub(crate) const ALL: [Section; 13] = [
    Section { name: "memory", title: "Memory store beside a bare tonic server", measure: calls::memory },
    Section { name: "threads", title: "Thread layouts of a bare tonic server", measure: calls::threads },
    Section { name: "redis", title: "On Redis", measure: calls::redis },
    Section { name: "etcd", title: "On etcd, its data in memory", measure: calls::etcd },
    Section { name: "disk", title: "On the disk", measure: calls::disk },
    Section { name: "paced", title: "1,000 calls a second on 16 connections", measure: calls::paced },
    Section { name: "lock", title: "A lock changes hands", measure: events::lock },
    Section { name: "elect", title: "A leader is gone", measure: elect::elect },
    Section { name: "watch", title: "1,000 watchers on 10 connections", measure: events::watch },
    Section { name: "neighbours", title: "Catching up, and a noisy neighbour", measure: events::neighbours },
    Section { name: "sizes", title: "Memory, start, size", measure: sizes::sizes },
    Section { name: "growth", title: "Growth", measure: growth::growth },
    Section { name: "hot", title: "Instructions and allocations of hot paths", measure: hot::hot },
];
