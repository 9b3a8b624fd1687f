// SPDX-License-Identifier: Apache-2.0
//! A candidate of an election in a process of its own, so that it can be killed or stopped.

use atomix_env::Env;
use atomix_load::Candidate as _;
use atomix_load::work::Subject;
use clap::Args;
use tokio::runtime::Builder;

/// Enters an election of a runtime.
#[derive(Debug, Clone, Args)]
pub(crate) struct Candidate {
    /// The runtime: `host:port` or `unix:/path`
    #[arg(long)]
    server: String,
    /// The name of the election
    #[arg(long)]
    election: String,
    /// The name of the candidate
    #[arg(long)]
    name: String,
}

/// Is a candidate until the process is ended.
pub(crate) fn run(options: &Candidate) -> anyhow::Result<()> {
    let election = Subject { name: options.election.clone(), tags: Vec::new(), keys: 0, value_bytes: 0 };
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut entrant = election.entrant(&Env::real(), &options.server, &options.name).await?;
        entrant.enter().await?;
        println!("{} has entered", options.name);
        // Its connection goes on answering pings meanwhile.
        std::future::pending().await
    })
}
