// SPDX-License-Identifier: Apache-2.0
//! The position of a keyspace: its revision, and the nonce of the commit that made it.

use atomix_store::{Error, Revision};
use redis::Value;

use crate::cursor::{Cursor, damaged};
use crate::error::Asked;
use crate::frame::Nonce;
use crate::names::Names;
use crate::nodes::Nodes;
use crate::program;

/// Reads the position of a keyspace. One without state is at revision zero, without a nonce.
pub(crate) async fn position(nodes: &Nodes, names: &Names) -> Result<(Revision, Nonce), Error> {
    let cmd = program::read(&nodes.library.read, names, &[]);
    let (answer, _) = nodes.call(names.slot, &cmd, Asked::Read).await?;
    let Value::Array(mut answer) = answer else { return Err(damaged()) };
    match answer.pop() {
        Some(Value::Nil) => Ok((Revision(0), Nonce::default())),
        Some(Value::BulkString(state)) => decode(state),
        _ => Err(damaged()),
    }
}

/// Reads the position of a keyspace that is followed: it has a state from now on.
pub(crate) async fn settled_position(
    nodes: &Nodes,
    names: &Names,
    nonce: Nonce,
) -> Result<(Revision, Nonce), Error> {
    let cmd = program::begin(&nodes.library.found, names, nonce);
    let (answer, _) = nodes.call(names.slot, &cmd, Asked::Write).await?;
    let Value::BulkString(state) = answer else { return Err(damaged()) };
    decode(state)
}

fn decode(state: Vec<u8>) -> Result<(Revision, Nonce), Error> {
    let mut cursor = Cursor::new(state);
    Ok((Revision(cursor.number()?), cursor.number()?.to_be_bytes()))
}
