// SPDX-License-Identifier: Apache-2.0
//! The choice of the connections to cut when the buffers of all are full: the third rule of [`crate::pool`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::pool::{Pool, STEP};

/// Finds the connections to cut, from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Relief {
    /// The bytes that each connection had written and read at the last check.
    progress: HashMap<u64, (u64, u64)>,
    looks: u32,
}

/// The time between two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After so many looks a connection is cut even if something moves on it.
const LOOKS_MAX: u32 = 10;

// === impl Relief ===

impl Relief {
    /// Checks all connections and returns those to cut.
    pub(crate) fn look<'a>(
        &mut self,
        pool: &Pool,
        connections: impl Iterator<Item = &'a Arc<Connection>>,
    ) -> Vec<Arc<Connection>> {
        let mut excess = pool.excess();
        if excess == 0 || !pool.is_exhausted() && self.looks == 0 {
            *self = Self::default();
            return Vec::new();
        }
        let mut progress = HashMap::new();
        let (mut stalled, mut moving) = (Vec::new(), Vec::new());
        for connection in connections {
            let bytes = connection.usage.bytes();
            if bytes < STEP || !connection.waits_for_peer() {
                continue;
            }
            if connection.ordered_end().is_some() {
                // It is on its way.
                excess = excess.saturating_sub(bytes);
                continue;
            }
            let now = (connection.traffic.written(), connection.traffic.reads());
            progress.insert(connection.id(), now);
            match self.progress.get(&connection.id()) {
                Some(before) if *before == now => stalled.push((bytes, connection)),
                Some(_) => moving.push((bytes, connection)),
                None => {}
            }
        }
        self.progress = progress;
        self.looks += 1;
        stalled.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut cut = Vec::new();
        for (bytes, connection) in stalled {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            cut.push(Arc::clone(connection));
        }
        if excess > 0 && self.looks >= LOOKS_MAX {
            let largest = moving.into_iter().max_by_key(|(bytes, _)| *bytes);
            cut.extend(largest.map(|(_, connection)| Arc::clone(connection)));
        }
        cut
    }

    /// Returns whether nothing is to be done until the bound is reached again.
    pub(crate) fn is_over(&self) -> bool {
        self.looks == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{End, Peer};
    use crate::limits::Limits;
    use atomix_env::Env;

    const MIB: usize = 1 << 20;

    fn connection(id: u64, pool: &Arc<Pool>) -> Arc<Connection> {
        let peer = Peer::Unix { pid: None, uid: 0 };
        Arc::new(Connection::new(id, peer, Env::real(), &Limits::default(), pool))
    }

    /// Answers that wait for their reader.
    fn fill(connection: &Connection, bytes: usize) {
        connection.budget.take(bytes);
        connection.usage.take(bytes);
    }

    fn ids(cut: &[Arc<Connection>]) -> Vec<u64> {
        cut.iter().map(|connection| connection.id()).collect()
    }

    #[test]
    fn those_that_use_most_and_stand_still_are_cut_until_an_eighth_is_free() {
        let pool = Pool::new(8 * MIB);
        let all: Vec<_> = (0..5).map(|id| connection(id, &pool)).collect();
        for (connection, mib) in all.iter().zip([1, 3, 2, 1, 1]) {
            fill(connection, mib * MIB);
        }
        // Running calls alone are no reason.
        all[4].budget.give(MIB);
        let mut relief = Relief::default();
        assert!(
            relief.look(&pool, all.iter()).is_empty(),
            "one check does not show which connection makes no progress"
        );
        all[1].traffic.wrote(1);
        let cut = relief.look(&pool, all.iter());
        assert_eq!(ids(&cut), [2], "2 MiB are more than an eighth, and the largest moves");
        cut[0].end(End::Memory);
        assert!(relief.look(&pool, all.iter()).is_empty(), "it is waited for");
        cut[0].usage.give(2 * MIB);
        assert!(relief.look(&pool, all.iter()).is_empty() && relief.is_over());
    }

    #[test]
    fn after_a_while_the_largest_is_cut_although_something_moves() {
        let pool = Pool::new(MIB);
        let (one, other) = (connection(1, &pool), connection(2, &pool));
        fill(&one, MIB / 4);
        fill(&other, MIB);
        let mut relief = Relief::default();
        let mut looks = 0;
        let cut = loop {
            looks += 1;
            one.traffic.wrote(1);
            other.traffic.wrote(1);
            let cut = relief.look(&pool, [&one, &other].into_iter());
            if !cut.is_empty() {
                break cut;
            }
        };
        assert_eq!((ids(&cut), looks), (vec![2], LOOKS_MAX));
    }
}
