// SPDX-License-Identifier: Apache-2.0
//! The drivers that this program was built with: the one place that names them.

use std::sync::Arc;

use atomix_cli::Offline;
use atomix_config::StoreSpec;
use atomix_env::Machine;
use atomix_store::Driver;

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

/// The operations on the files of a store.
#[cfg(feature = "driver-disk")]
pub(crate) const OFFLINE: Offline = Offline {
    verify: |path| Ok(atomix_driver_disk::verify(path)?.to_string()),
    restore: |backup, dir| Ok(atomix_driver_disk::restore(backup, dir)?.to_string()),
};

/// The operations on the files of a store.
#[cfg(not(feature = "driver-disk"))]
pub(crate) const OFFLINE: Offline = Offline::NOTHING;

/// Fills in the defaults of stores that follow the machine, so that `--print-config` shows them.
pub(crate) fn complete(stores: &mut [StoreSpec], machine: &Machine) {
    let drivers = all();
    for store in stores {
        let name = store.driver.name.as_str();
        let named = |driver: &&Arc<dyn Driver>| {
            driver.name() == name || driver.aliases().iter().any(|(alias, _)| *alias == name)
        };
        if let Some(driver) = drivers.iter().find(named) {
            driver.complete(&mut store.config, machine);
        }
    }
}
