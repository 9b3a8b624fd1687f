// SPDX-License-Identifier: Apache-2.0
//! The drivers that this program was built with: the one place that names them.

use std::sync::Arc;

use atomix_cli::Offline;
use atomix_kv::Driver;

/// Returns the drivers.
pub(crate) fn all() -> Vec<Arc<dyn Driver>> {
    vec![
        #[cfg(feature = "driver-memory")]
        Arc::new(atomix_driver_memory::MemoryDriver),
        #[cfg(feature = "driver-disk")]
        Arc::new(atomix_driver_disk::DiskDriver),
        #[cfg(feature = "driver-etcd")]
        Arc::new(atomix_driver_etcd::EtcdDriver),
        #[cfg(feature = "driver-redis")]
        Arc::new(atomix_driver_redis::RedisDriver),
    ]
}

/// What can be done with the files of a store.
#[cfg(feature = "driver-disk")]
pub(crate) const OFFLINE: Offline = Offline {
    verify: |path| Ok(atomix_driver_disk::verify(path)?.to_string()),
    restore: |backup, dir| Ok(atomix_driver_disk::restore(backup, dir)?.to_string()),
};

/// What can be done with the files of a store.
#[cfg(not(feature = "driver-disk"))]
pub(crate) const OFFLINE: Offline = Offline::NOTHING;
