// SPDX-License-Identifier: Apache-2.0
//! Requests whose `Debug` form leaves the configuration of a store out: it may have passwords.

use std::fmt;

use crate::{proxy, runtime};

macro_rules! without_config {
    ($($message:ty { $($field:ident),+ };)+) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))+
                    .finish_non_exhaustive()
            }
        })+
    };
}

without_config! {
    runtime::ConnectRequest { store_id, driver_id };
    runtime::ConfigureRequest { store_id };
    proxy::ConnectRequest { store_id, driver_id };
    proxy::ConfigureRequest { store_id };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_not_shown() {
        let config = bytes::Bytes::from_static(b"hunter2");
        let later = runtime::ConnectRequest { config: config.clone(), ..Default::default() };
        let seed = proxy::ConfigureRequest { config, ..Default::default() };
        let shown = format!("{later:?} {seed:?}");
        assert!(shown.contains("ConnectRequest") && shown.contains("store_id"), "{shown}");
        // As text and as the numbers of its bytes.
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
