// SPDX-License-Identifier: Apache-2.0
//! Typed configuration: defaults, then one file, then the environment, then flags.
//!
//! A later layer wins over an earlier one. Tables are merged key by key, lists are replaced as a whole. An unknown
//! key is an error in the file and in flags, because a misspelt limit that is silently ignored is a limit that is not
//! there. In the environment, whose prefix others use as well, it is a warning unless [`Loader::strict`].
//!
//! Keys are written in kebab-case everywhere. Only the `config` objects of stores, rules and services are free:
//! their keys belong to the driver or the primitive and are passed on as they stand.
//!
//! | Layer | Form of a key |
//! |---|---|
//! | file (`.yaml`, `.yml`, `.toml`) | nested tables: `limits: { value-bytes-max: 2MiB }` |
//! | environment | `ATOMIX_` + the key in capitals, `__` between levels, `_` for `-`: `ATOMIX_LIMITS__VALUE_BYTES_MAX` |
//! | flags | the key path: `limits.value-bytes-max` |
//!
//! Lists of texts are given to the environment and to flags with commas (`ATOMIX_LISTEN=[::1]:1,unix:/run/a`),
//! stores and routes as one YAML or JSON text. The library reads nothing by itself but the named file: the caller
//! passes the environment in.
//!
//! ```
//! let loaded = atomix_config::Loader::new()
//!     .env([("ATOMIX_LIMITS__VALUE_BYTES_MAX", "2MiB")])
//!     .flags([("log.level", "debug")])
//!     .load()?;
//! assert_eq!(loaded.config.limits.value_bytes_max.bytes(), 2 * 1024 * 1024);
//! assert!(loaded.render_with_origins(|store| store.config.clone()).contains("level: debug  # flag --set log.level"));
//! # Ok::<(), atomix_config::Error>(())
//! ```

mod check;
mod config;
mod duration;
mod error;
mod id;
mod limits;
mod listen;
mod loader;
mod nearest;
mod origin;
mod parse;
mod reference;
mod render;
mod routes;
mod schema;
mod secret;
mod setting;
mod size;

pub use atomix_env::JsonObject;
pub use config::{
    Config, Drain, Identity, Log, LogFormat, LogLevel, Sessions, SocketMode, Sockets, StoreSpec,
};
pub use duration::Duration;
pub use error::{Error, Problem, Warning};
pub use id::{DriverId, StoreId};
pub use limits::Limits;
pub use listen::Listen;
pub use loader::{Loaded, Loader};
pub use origin::Origin;
pub use parse::FILE_BYTES_MAX;
pub use reference::reference;
pub use routes::{LaterRoute, PrimitiveType, Routes, Rule, SeedRoute, Service};
pub use secret::Secret;
pub use size::ByteSize;
