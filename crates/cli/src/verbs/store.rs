// SPDX-License-Identifier: Apache-2.0
//! `atomix store`

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use atomix_client::inspect::{Store, StoreState};
use atomix_client::{DriverId, StoreId};
use clap::Subcommand;
use serde_json::{Value as Json, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, Found};
use crate::failure::{DONE, Failure};
use crate::input::read_json;
use crate::text::ago;

/// Longer than the server waits for a store that does not answer: three times its `drain.grace` of 10 s by default.
const DISCONNECT_TIMEOUT: Duration = Duration::from_mins(1);

/// The verbs of stores. A store is named NAME or NAMESPACE/NAME.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Connect a store; does not wait for it to be reachable
    ///
    /// It is connected until the server ends: a store that is to be there after a restart belongs into the configuration
    /// of `atomix serve`.
    Connect {
        /// The store
        store: StoreId,
        /// The driver: NAME/VERSION, or NAME for its newest version; `atomix inspect drivers` lists them
        driver: DriverId,
        /// The configuration: a JSON object, `-` for standard input, or `@FILE`
        config: Option<String>,
    },
    /// Give a store another configuration; on failure it keeps the one that it has
    Configure {
        /// The store
        store: StoreId,
        /// The configuration: a JSON object, `-` for standard input, or `@FILE`
        config: String,
    },
    /// Disconnect a store
    ///
    /// The content stays there, unless it is a memory store: that loses its content, and --force is needed if it has any. Waits
    /// for a store that does not answer, 60s by default.
    Disconnect {
        /// The store
        store: StoreId,
        /// Disconnect a memory store that has content as well; the content is lost
        #[arg(long)]
        force: bool,
    },
    /// Print all connected stores and their state
    List,
    /// Copy everything that a store keeps into one file, while it works
    Backup {
        /// The store
        store: StoreId,
        /// The file to be made, which must not be there; or `-` for standard output
        file: PathBuf,
    },
    /// Make the folder of a disk store from a backup; needs no server
    Restore {
        /// The backup
        file: PathBuf,
        /// The folder; it must be empty, not there, or the root of a new volume (with nothing but `lost+found`)
        dir: PathBuf,
    },
    /// Read a backup, or the folder of a disk store that no process has open, and report damage; needs no server
    Verify {
        /// The backup or the folder
        path: PathBuf,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let control = || Ok::<_, Failure>(context.control()?.control());
        let done = |what: &str, store: &StoreId| context.printer.object(&json!({"store": store, what: true}));
        match self {
            Self::Connect { store, driver, config } => {
                let config = config.as_deref().map_or(Ok(Json::Null), read_json)?;
                control()?.connect(store.clone(), driver, &config).await.map_err(Failure::control)?;
                done("connected", &store)?;
                context.printer.note(&format!(
                    "store {store} is connected until the server ends; to keep it, add it to `stores` of the configuration"
                ));
            }
            Self::Configure { store, config } => {
                control()?.configure(store.clone(), &read_json(&config)?).await.map_err(Failure::control)?;
                done("configured", &store)?;
            }
            Self::Disconnect { store, force } => {
                let inspect = context.control_with_timeout(DISCONNECT_TIMEOUT)?.inspect();
                let disconnected = inspect.disconnect_store(store.clone(), force).await;
                disconnected.map_err(|error| Failure::control_forced(error, force))?;
                done("disconnected", &store)?;
            }
            Self::List => return list(context).await,
            Self::Backup { store, file } => return backup(context, store, &file).await,
            Self::Restore { file, dir } => {
                return report(context, "restored", (context.offline.restore)(&file, &dir));
            }
            Self::Verify { path } => return report(context, "whole", (context.offline.verify)(&path)),
        }
        Ok(DONE)
    }
}

/// Prints the result of an operation on the files of a store.
fn report(context: &Context, done: &str, found: Found) -> Result<ExitCode, Failure> {
    let found = found.map_err(|error| Failure::Files(error.to_string()))?;
    context.printer.line(format!("{done}: {found}"), &json!({done: found}))?;
    Ok(DONE)
}

/// Writes a backup to standard output, or to a file that only its owner may read. The file has its name when all of it is
/// on the disk; what is not complete is removed, unless this process is killed.
async fn backup(context: &Context, store: StoreId, path: &Path) -> Result<ExitCode, Failure> {
    if path == Path::new("-") {
        let mut output = io::stdout();
        if output.is_terminal() {
            return Err(Failure::Usage("a backup is not text: redirect standard output".to_owned()));
        }
        pieces(context, store, &mut output).await?;
        output.flush().map_err(|error| Failure::Io("cannot write the backup", error))?;
        return Ok(DONE);
    }
    let refused = |error: io::Error| {
        Failure::Files(format!("cannot make the backup: file=`{}` reason=`{error}`", path.display()))
    };
    if path.symlink_metadata().is_ok() {
        return Err(refused(io::ErrorKind::AlreadyExists.into()));
    }
    let name = path.file_name().ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let temporary = folder.join(format!(".{}.{}.unfinished", name.display(), std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(refused)?;
    let written = tokio::select! {
        written = pieces(context, store, &mut file) => written.and_then(|bytes| {
            let named = file.sync_all().and_then(|()| fs::rename(&temporary, path));
            let named = named.and_then(|()| File::open(folder)?.sync_all());
            named.map(|()| bytes).map_err(|error| Failure::Io("cannot write the backup", error))
        }),
        interrupted = interrupted() => Err(interrupted),
    };
    match written {
        Ok(bytes) => {
            let name = path.display().to_string();
            context.printer.line(format!("{name}: {bytes} bytes"), &json!({"file": name, "bytes": bytes}))?;
            Ok(DONE)
        }
        Err(failure) => {
            // Best effort: the failure is what counts.
            drop(fs::remove_file(&temporary));
            Err(failure)
        }
    }
}

/// Writes the pieces of a backup, and returns how many bytes they had.
async fn pieces(context: &Context, store: StoreId, output: &mut impl Write) -> Result<usize, Failure> {
    let mut pieces = context.control()?.inspect().backup(store).await.map_err(Failure::control)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(Failure::control)?;
        output.write_all(&piece).map_err(|error| Failure::Io("cannot write the backup", error))?;
        bytes += piece.len();
    }
    Ok(bytes)
}

/// Waits for a signal that ends this process.
async fn interrupted() -> Failure {
    let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
    match (signal(interrupt), signal(terminate)) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Failure::Files("the backup was interrupted".to_owned())
        }
        (Err(error), _) | (_, Err(error)) => Failure::Io("cannot catch signals", error),
    }
}

pub(crate) async fn list(context: &Context) -> Result<ExitCode, Failure> {
    let stores = context.control()?.inspect().stores().await.map_err(Failure::control)?;
    print(context, &stores)?;
    Ok(DONE)
}

pub(crate) fn print(context: &Context, stores: &[Store]) -> Result<(), Failure> {
    let now = context.wall();
    let header = [
        "STORE",
        "DRIVER",
        "STATE",
        "SINCE",
        "PRIMITIVES",
        "GENERATION",
        "CONSISTENCY",
        "DURABILITY",
        "DETAILS",
        "ERROR",
    ];
    context.printer.table("no store is connected", &header, stores, |store: &Store| {
        let promise = |fact: fn(&atomix_client::inspect::Profile) -> &String| {
            store.profile.as_ref().map(fact).cloned().unwrap_or_default()
        };
        vec![
            store.store.to_string(),
            store.driver.to_string(),
            state(store.state).to_owned(),
            ago(store.since, now),
            store.primitives.to_string(),
            store.generation.to_string(),
            promise(|profile| &profile.consistency),
            promise(|profile| &profile.durability),
            facts(&store.facts),
            store.error.clone(),
        ]
    })
}

fn facts(facts: &BTreeMap<String, String>) -> String {
    facts.iter().map(|(name, fact)| format!("{name}={fact}")).collect::<Vec<_>>().join(" ")
}

fn state(state: StoreState) -> &'static str {
    match state {
        StoreState::Connecting => "connecting",
        StoreState::Ready => "ready",
        StoreState::Degraded => "degraded",
        StoreState::Closed => "closed",
        StoreState::Unknown | _ => "unknown",
    }
}
