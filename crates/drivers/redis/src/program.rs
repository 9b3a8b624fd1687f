// SPDX-License-Identifier: Apache-2.0
//! The arguments of `library.lua` and its results.
//!
//! A program is: nonce (8 bytes), number of keys (4), number of transactions (4), then the transactions. A transaction is a head
//! of ten numbers (4 each): guards, additions, writes, reads, reads if it applies (all or none), where the writes, the reads and the next transaction begin,
//! and how many operands lie before its reads and before the next transaction; then the guards, the keys of the
//! additions, the writes, the reads. Keys are passed once and named by number (3 bytes). Values and the bounds of ranges are
//! operands, in the order of their use.
//!
//! The answer is one string: for each transaction `A` (applied) or `R` (refused), its revision (8), and for each write that is no
//! stamp and each read a record with its length (4) before it, or a number (8); a scan has whether there is more (4), the number
//! of its entries (4), and for each the lengths of key and record (4 each) and these two. An invalid transaction is `I` alone.
//! A request that was answered before is `P`, the length (4) of its shape, the shape, and the answer of that time.

use std::collections::HashMap;

use atomix_store::{
    Ask, Error, ErrorKind, Found, Guard, Limits, Order, Outcome, Range, Read, Revision, Snapshot, Txn, Write,
    Written,
};
use bytes::{BufMut, Bytes, BytesMut};
use redis::{Cmd, Value};

use crate::cursor::{Cursor, damaged, entry};
use crate::frame::Nonce;
use crate::names::{FLOOR, INDEX, Names, ORDER, OUTCOMES, RECORDS, STREAM};

/// The sizes that fit into a program, and that do not keep a server busy for too long.
pub(crate) fn limits() -> Limits {
    Limits {
        key_bytes_max: 64 * 1024,
        value_bytes_max: 32 * 1024 * 1024,
        guards_max: 65_536,
        writes_max: 65_536,
        reads_max: 65_536,
        once_max: 1 << 20,
        ..Limits::default()
    }
}

/// The parts of one transaction that are needed to decode the answer. Kept beside the outcome of a named
/// request, because a repetition is answered with the outcome of the first, whatever its own content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    writes: Vec<WriteShape>,
    reads: Vec<ReadShape>,
    ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum WriteShape {
    Put(Bytes),
    Add,
    Stamp(Bytes),
    Delete(Bytes),
    DeleteRange,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ReadShape {
    Get(Bytes),
    Scan,
    Count,
}

/// The values that a program refers to.
#[derive(Default)]
struct Writer<'a> {
    program: Vec<u8>,
    keys: Vec<&'a [u8]>,
    /// The numbers of keys, once there are too many to look through.
    numbers: HashMap<&'a [u8], usize>,
    operands: Vec<Bytes>,
}

/// The keys of a commit; the last two only with a named request.
const NAMED: [u8; 6] = [RECORDS, INDEX, STREAM, FLOOR, OUTCOMES, ORDER];

/// Beyond this many keys they are found by hash.
const FEW: usize = 16;

/// Makes the call that applies `txns`. A transaction with a name or with the deletion of a range comes alone.
pub(crate) fn commit(function: &str, names: &Names, nonce: Nonce, txns: &[Txn]) -> Cmd {
    let mut writer = Writer::default();
    writer.program.put_slice(&nonce);
    writer.program.put_bytes(0, 8);
    // The empty key is the state of the keyspace.
    writer.number(&[]);
    for txn in txns {
        writer.txn(txn);
    }
    writer.set(8, writer.keys.len());
    writer.set(12, txns.len());
    let once = txns.first().and_then(|txn| txn.once.as_ref().map(|name| (name, Shape::of(txn).encode())));
    let mut cmd = redis::cmd("FCALL");
    cmd.arg(function).arg(if once.is_some() { 6 } else { 4 });
    names.pass(&mut cmd, if once.is_some() { &NAMED } else { &NAMED[..4] });
    writer.finish(&mut cmd, once.as_ref().map(|(name, shape)| [&name[..], &shape[..]]));
    cmd
}

/// Makes the call that makes sure that the keyspace has a state, with `nonce` if it had none.
pub(crate) fn begin(function: &str, names: &Names, nonce: Nonce) -> Cmd {
    let mut cmd = redis::cmd("FCALL");
    cmd.arg(function).arg(2);
    names.pass(&mut cmd, &[RECORDS, FLOOR]);
    cmd.arg(&nonce[..]);
    cmd
}

/// Makes the call that gives the keyspace back if it is empty and `channel` has no subscribers.
pub(crate) fn reclaim(function: &str, names: &Names, channel: &[u8]) -> Cmd {
    let mut cmd = redis::cmd("FCALL");
    cmd.arg(function).arg(5);
    names.pass(&mut cmd, &NAMED[..5]);
    cmd.arg(channel);
    cmd
}

/// Makes the call that answers `reads`.
pub(crate) fn read(function: &str, names: &Names, reads: &[Read]) -> Cmd {
    if reads.iter().all(|read| matches!(read, Read::Get { .. })) {
        // Reads without an index need no program.
        let mut cmd = redis::cmd("HMGET");
        names.pass(&mut cmd, &[RECORDS]);
        cmd.arg(&[][..] as &[u8]);
        for read in reads {
            if let Read::Get { key } = read {
                cmd.arg(&key[..]);
            }
        }
        return cmd;
    }
    let mut writer = Writer::default();
    writer.program.put_bytes(0, 8);
    writer.number(&[]);
    for read in reads {
        writer.read(read);
    }
    writer.set(0, writer.keys.len());
    writer.set(4, reads.len());
    let mut cmd = redis::cmd("FCALL_RO");
    cmd.arg(function).arg(2);
    names.pass(&mut cmd, &[RECORDS, INDEX]);
    writer.finish(&mut cmd, None);
    cmd
}

/// Reads the answer to [`commit`]: what became of each transaction.
pub(crate) fn outcomes(txns: &[Txn], answer: Value) -> Result<Vec<Result<Outcome, Error>>, Error> {
    let mut cursor = Cursor::new(bulk(answer)?);
    txns.iter().map(|txn| outcome(Shape::of(txn), &mut cursor)).collect()
}

/// Reads the answer to [`read`].
pub(crate) fn snapshot(reads: &[Read], answer: Value) -> Result<Snapshot, Error> {
    if let Value::Array(items) = answer {
        return gets(reads, items);
    }
    let mut cursor = Cursor::new(bulk(answer)?);
    let revision = Revision(cursor.number()?);
    let reads = reads.iter().map(|read| found(ReadShape::of(read), &mut cursor)).collect::<Result<_, _>>()?;
    Ok(Snapshot { revision, reads })
}

/// Reads records as Redis itself answers them: the state of the keyspace, then those that were asked for.
fn gets(reads: &[Read], items: Vec<Value>) -> Result<Snapshot, Error> {
    let mut items =
        items.into_iter().map(|item| if item == Value::Nil { Ok(Bytes::new()) } else { bulk(item) });
    let mut next = || items.next().ok_or_else(damaged)?;
    let state = next()?;
    let revision = if state.is_empty() { Revision(0) } else { Revision(Cursor::new(state).number()?) };
    let reads = reads.iter().map(|read| match read {
        Read::Get { key } => Ok(Found::Entry(entry(key.clone(), next()?)?)),
        Read::Scan { .. } | Read::Count { .. } => Err(damaged()),
    });
    let reads = reads.collect::<Result<_, _>>()?;
    Ok(Snapshot { revision, reads })
}

fn bulk(value: Value) -> Result<Bytes, Error> {
    let Value::BulkString(bytes) = value else { return Err(damaged()) };
    Ok(bytes.into())
}

/// Returns whether a transaction can only make the keyspace smaller, apart from what is kept of it for watches.
pub(crate) fn shrinks(txn: &Txn) -> bool {
    txn.writes.iter().all(|write| matches!(write, Write::Delete { .. } | Write::DeleteRange { .. }))
}

/// Returns whether a transaction must come alone.
pub(crate) fn alone(txn: &Txn) -> bool {
    txn.once.is_some() || txn.writes.iter().any(|write| matches!(write, Write::DeleteRange { .. }))
}

fn outcome(shape: Shape, cursor: &mut Cursor) -> Result<Result<Outcome, Error>, Error> {
    let applied = match cursor.byte()? {
        b'A' => true,
        b'R' => false,
        b'I' => return Ok(Err(Error::invalid("an addition to a value that is no number"))),
        b'F' => return Ok(Err(too_many_named())),
        b'P' => {
            let shape = Shape::decode(cursor.piece()?)?;
            return outcome(shape, cursor);
        }
        _ => return Err(damaged()),
    };
    let revision = Revision(cursor.number()?);
    let mut writes = Vec::new();
    if applied {
        writes.reserve_exact(shape.writes.len());
        for write in shape.writes {
            writes.push(written(write, revision, cursor)?);
        }
    }
    let asked = if applied && shape.ask == Ask::IfRefused { Vec::new() } else { shape.reads };
    let reads = asked.into_iter().map(|read| found(read, cursor)).collect::<Result<_, _>>()?;
    Ok(Ok(Outcome { revision, applied, writes, reads }))
}

fn too_many_named() -> Error {
    let max = limits().once_max;
    Error::new(
        ErrorKind::Full,
        format!(
            "too many named requests of this primitive in the last 5 minutes: try again in a minute: max=`{max}`"
        ),
    )
}

fn written(write: WriteShape, revision: Revision, cursor: &mut Cursor) -> Result<Written, Error> {
    Ok(match write {
        WriteShape::Put(key) => Written::Put { previous: entry(key, cursor.piece()?)? },
        WriteShape::Add => Written::Added { value: cursor.number()?.cast_signed() },
        WriteShape::Stamp(prefix) => {
            Written::Stamped { key: [&prefix[..], &revision.0.to_be_bytes()].concat().into() }
        }
        WriteShape::Delete(key) => Written::Deleted { previous: entry(key, cursor.piece()?)? },
        WriteShape::DeleteRange => Written::RangeDeleted { count: cursor.number()? },
    })
}

fn found(read: ReadShape, cursor: &mut Cursor) -> Result<Found, Error> {
    Ok(match read {
        ReadShape::Get(key) => Found::Entry(entry(key, cursor.piece()?)?),
        ReadShape::Count => Found::Count(cursor.number()?),
        ReadShape::Scan => {
            let (more, len) = (cursor.length()? != 0, cursor.length()?);
            let mut entries = Vec::with_capacity(len.min(4096));
            for _ in 0..len {
                let (key, record) = (cursor.length()?, cursor.length()?);
                let (key, record) = (cursor.take(key)?, cursor.take(record)?);
                entries.push(entry(key, record)?.ok_or_else(damaged)?);
            }
            Found::Entries { entries, more }
        }
    })
}

// === impl Writer ===

impl<'a> Writer<'a> {
    /// The number of a key, counted from one.
    fn number(&mut self, key: &'a [u8]) -> usize {
        if self.keys.len() <= FEW {
            if let Some(at) = self.keys.iter().position(|known| *known == key) {
                return at + 1;
            }
        } else {
            if self.numbers.is_empty() {
                self.numbers = self.keys.iter().enumerate().map(|(at, key)| (*key, at + 1)).collect();
            }
            if let Some(number) = self.numbers.get(key) {
                return *number;
            }
            self.numbers.insert(key, self.keys.len() + 1);
        }
        self.keys.push(key);
        self.keys.len()
    }

    fn key(&mut self, key: &'a [u8]) {
        let number = self.number(key);
        self.program.put_uint(number as u64, 3);
    }

    fn code(&mut self, code: u8, key: &'a [u8]) {
        self.program.put_u8(code);
        self.key(key);
    }

    /// Writes a number of four bytes over what is there.
    fn set(&mut self, at: usize, value: usize) {
        let value = u32::try_from(value).expect("limits keep numbers small");
        self.program[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn range(&mut self, range: &Range) {
        self.operands.push([b"[", &range.start[..]].concat().into());
        let end = range.end.as_ref().map(|end| [b"(", &end[..]].concat().into());
        self.operands.push(end.unwrap_or_else(|| Bytes::from_static(b"+")));
    }

    fn txn(&mut self, txn: &'a Txn) {
        let head = self.program.len();
        self.program.put_bytes(0, 40);
        for guard in &txn.guards {
            self.guard(guard);
        }
        // Lua counts from one.
        let writes = self.program.len() + 1;
        let mut adds = 0;
        for write in &txn.writes {
            if let Write::Add { key, .. } = write {
                adds += 1;
                self.key(key);
            }
        }
        for write in &txn.writes {
            self.write(write);
        }
        let (reads, operand_reads) = (self.program.len() + 1, self.operands.len());
        for read in &txn.reads {
            self.read(read);
        }
        let head_of = [
            txn.guards.len(),
            adds,
            txn.writes.len(),
            txn.reads.len(),
            txn.asked(true).len(),
            writes,
            reads,
            self.program.len() + 1,
            operand_reads,
            self.operands.len(),
        ];
        for (at, value) in head_of.into_iter().enumerate() {
            self.set(head + 4 * at, value);
        }
    }

    fn guard(&mut self, guard: &'a Guard) {
        match guard {
            Guard::Absent { key } => self.code(b'a', key),
            Guard::Present { key } => self.code(b'p', key),
            Guard::ModifiedAt { key, revision } => {
                self.code(b'm', key);
                self.program.put_u64(revision.0);
            }
            Guard::ValueIs { key, value } => {
                self.code(b'v', key);
                self.operands.push(value.clone());
            }
            Guard::ValueIsNot { key, value } => {
                self.code(b'n', key);
                self.operands.push(value.clone());
            }
        }
    }

    fn write(&mut self, write: &'a Write) {
        match write {
            Write::Put { key, value } => {
                self.code(b'P', key);
                self.operands.push(value.clone());
            }
            Write::Add { key, delta } => {
                self.code(b'A', key);
                self.program.put_i64(*delta);
            }
            Write::Stamp { prefix, value } => {
                self.code(b'S', &[]);
                self.operands.extend([prefix.clone(), value.clone()]);
            }
            Write::Delete { key } => self.code(b'D', key),
            Write::DeleteRange { range } => {
                self.code(b'X', &[]);
                self.range(range);
            }
        }
    }

    fn read(&mut self, read: &'a Read) {
        match read {
            Read::Get { key } => self.code(b'g', key),
            Read::Count { range } => {
                self.program.put_u8(b'k');
                self.range(range);
            }
            Read::Scan { range, order, limit, keys_only } => {
                let descending = match order {
                    // The suffix of a stamp is its revision, so stamps of one prefix are in order of creation.
                    Order::Key | Order::Created => 0,
                    Order::KeyDescending => 1,
                };
                self.program.put_u8(b's');
                self.program.put_u8(descending + 2 * u8::from(*keys_only));
                self.program.put_u32(u32::try_from(*limit).unwrap_or(u32::MAX));
                self.range(range);
            }
        }
    }

    fn finish(self, cmd: &mut Cmd, once: Option<[&[u8]; 2]>) {
        cmd.arg(&self.program[..]);
        for key in self.keys {
            cmd.arg(key);
        }
        for operand in once.into_iter().flatten() {
            cmd.arg(operand);
        }
        for operand in &self.operands {
            cmd.arg(&operand[..]);
        }
    }
}

// === impl Shape ===

impl Shape {
    fn of(txn: &Txn) -> Self {
        let writes = txn.writes.iter().map(|write| match write {
            Write::Put { key, .. } => WriteShape::Put(key.clone()),
            Write::Add { .. } => WriteShape::Add,
            Write::Stamp { prefix, .. } => WriteShape::Stamp(prefix.clone()),
            Write::Delete { key } => WriteShape::Delete(key.clone()),
            Write::DeleteRange { .. } => WriteShape::DeleteRange,
        });
        Self { writes: writes.collect(), ask: txn.ask, reads: txn.reads.iter().map(ReadShape::of).collect() }
    }

    /// Number of writes (4 bytes), then writes and reads, each a code (1), the length of its key (4), the key. Last, if they
    /// are asked only then, a mark in the place of a read.
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u32(u32::try_from(self.writes.len()).expect("limits keep numbers small"));
        let none = Bytes::new();
        let writes = self.writes.iter().map(|write| match write {
            WriteShape::Put(key) => (b'P', key),
            WriteShape::Add => (b'A', &none),
            WriteShape::Stamp(prefix) => (b'S', prefix),
            WriteShape::Delete(key) => (b'D', key),
            WriteShape::DeleteRange => (b'X', &none),
        });
        let reads = self.reads.iter().map(|read| match read {
            ReadShape::Get(key) => (b'g', key),
            ReadShape::Scan => (b's', &none),
            ReadShape::Count => (b'k', &none),
        });
        let ask = (self.ask == Ask::IfRefused).then_some((b'r', &none));
        for (code, key) in writes.chain(reads).chain(ask) {
            bytes.put_u8(code);
            bytes.put_u32(u32::try_from(key.len()).expect("limits keep keys small"));
            bytes.put_slice(key);
        }
        bytes.freeze()
    }

    fn decode(bytes: Bytes) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes);
        let len = cursor.length()?;
        let (mut writes, mut reads, mut ask) = (Vec::new(), Vec::new(), Ask::Always);
        while !cursor.is_empty() {
            let (code, key) = (cursor.byte()?, cursor.piece()?);
            match code {
                b'P' => writes.push(WriteShape::Put(key)),
                b'A' => writes.push(WriteShape::Add),
                b'S' => writes.push(WriteShape::Stamp(key)),
                b'D' => writes.push(WriteShape::Delete(key)),
                b'X' => writes.push(WriteShape::DeleteRange),
                b'g' => reads.push(ReadShape::Get(key)),
                b's' => reads.push(ReadShape::Scan),
                b'k' => reads.push(ReadShape::Count),
                b'r' => ask = Ask::IfRefused,
                _ => return Err(damaged()),
            }
        }
        if writes.len() == len { Ok(Self { writes, reads, ask }) } else { Err(damaged()) }
    }
}

impl ReadShape {
    fn of(read: &Read) -> Self {
        match read {
            Read::Get { key } => Self::Get(key.clone()),
            Read::Scan { .. } => Self::Scan,
            Read::Count { .. } => Self::Count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_has_one_number_however_many_there_are() {
        let keys: Vec<Vec<u8>> = (0..100u8).map(|byte| vec![byte]).collect();
        let mut writer = Writer::default();
        for round in 0..2 {
            for (at, key) in keys.iter().enumerate() {
                assert_eq!(writer.number(key), at + 1, "{round}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_shape_survives_its_encoding(
            keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 4),
            always: bool,
        ) {
            let key = |at: usize| Bytes::from(keys[at].clone());
            let shape = Shape {
                writes: vec![
                    WriteShape::Put(key(0)), WriteShape::Add, WriteShape::Stamp(key(1)), WriteShape::Delete(key(2)),
                    WriteShape::DeleteRange,
                ],
                reads: vec![ReadShape::Scan, ReadShape::Get(key(3)), ReadShape::Count],
                ask: if always { Ask::Always } else { Ask::IfRefused },
            };
            prop_assert_eq!(Shape::decode(shape.encode()).unwrap(), shape);
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_crashes(bytes: Vec<u8>) {
            drop(Shape::decode(bytes.into()));
        }
    }
}
