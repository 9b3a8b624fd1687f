// SPDX-License-Identifier: Apache-2.0
//! Checks of requests that every store makes: the limits of its profile, and keys that are written twice.

use bytes::Bytes;

use crate::error::Error;
use crate::model::{Guard, Range, Read, Txn, Write};
use crate::profile::Limits;

// === impl Txn ===

impl Txn {
    /// Checks what every store refuses: broken limits, and keys that are written twice. Drivers call it before
    /// anything else.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        check_len("guards", self.guards.len(), limits.guards_max)?;
        check_len("writes", self.writes.len(), limits.writes_max)?;
        limits.check_reads(&self.reads)?;
        for guard in &self.guards {
            limits.check_key(guard.key())?;
            if let Guard::ValueIs { value, .. } | Guard::ValueIsNot { value, .. } = guard {
                limits.check_value(value)?;
            }
        }
        let mut keys: Vec<&[u8]> = Vec::with_capacity(self.writes.len());
        let mut prefixes: Vec<&[u8]> = Vec::new();
        let mut ranges: Vec<&Range> = Vec::new();
        for write in &self.writes {
            match write {
                Write::Put { key, value } => {
                    limits.check_key(key)?;
                    limits.check_value(value)?;
                    keys.push(key);
                }
                Write::Add { key, .. } | Write::Delete { key } => {
                    limits.check_key(key)?;
                    keys.push(key);
                }
                Write::Stamp { prefix, value } => {
                    limits.check_key(prefix)?;
                    limits.check_value(value)?;
                    prefixes.push(prefix);
                }
                Write::DeleteRange { range } => ranges.push(range),
            }
        }
        keys.sort_unstable();
        prefixes.sort_unstable();
        let twice = |keys: &[&[u8]]| keys.windows(2).any(|pair| pair[0] == pair[1]);
        let stamped = |key: &&[u8]| prefixes.iter().any(|prefix| key.starts_with(prefix));
        let deleted = |key: &&[u8]| ranges.iter().any(|range| range.contains(key));
        let ranges_meet = || {
            ranges.iter().enumerate().any(|(at, one)| {
                ranges[at + 1..].iter().any(|other| {
                    one.end.as_ref().is_none_or(|end| other.start < end)
                        && other.end.as_ref().is_none_or(|end| one.start < end)
                })
            })
        };
        if twice(&keys)
            || twice(&prefixes)
            || keys.iter().any(|key| stamped(key) || deleted(key))
            || prefixes.iter().any(deleted)
            || ranges_meet()
        {
            return Err(Error::invalid("a transaction writes a key twice"));
        }
        if let Some(once) = &self.once
            && !(1..=Limits::ONCE_BYTES_MAX).contains(&once.len())
        {
            return Err(Error::invalid(format!(
                "request name out of bounds: bytes=`{}` bounds=`1 to {}`",
                once.len(),
                Limits::ONCE_BYTES_MAX
            )));
        }
        Ok(())
    }
}

// === impl Limits ===

impl Limits {
    fn check_key(&self, key: &Bytes) -> Result<(), Error> {
        if key.is_empty() || key.len() > self.key_bytes_max {
            let (bytes, max) = (key.len(), self.key_bytes_max);
            return Err(Error::invalid(format!("key out of bounds: bytes=`{bytes}` bounds=`1 to {max}`")));
        }
        Ok(())
    }

    fn check_value(&self, value: &Bytes) -> Result<(), Error> {
        if value.len() > self.value_bytes_max {
            let (bytes, max) = (value.len(), self.value_bytes_max);
            return Err(Error::invalid(format!("value too large: bytes=`{bytes}` max=`{max}`")));
        }
        Ok(())
    }

    /// Checks reads as [`Txn::check`] checks transactions.
    pub fn check_reads(&self, reads: &[Read]) -> Result<(), Error> {
        check_len("reads", reads.len(), self.reads_max)?;
        for read in reads {
            match read {
                Read::Get { key } => self.check_key(key)?,
                Read::Scan { limit: 0, .. } => return Err(Error::invalid("a scan with a limit of zero")),
                Read::Scan { .. } | Read::Count { .. } => {}
            }
        }
        Ok(())
    }
}

fn check_len(what: &str, len: usize, max: usize) -> Result<(), Error> {
    if len > max {
        return Err(Error::invalid(format!("too many {what} in a transaction: count=`{len}` max=`{max}`")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn put(key: &'static str) -> Write {
        Write::Put { key: key.into(), value: Bytes::new() }
    }

    #[test]
    fn a_key_written_twice_is_refused() {
        let range = Write::DeleteRange { range: Range::prefix("a") };
        let stamp = Write::Stamp { prefix: "a".into(), value: Bytes::new() };
        for pair in [
            [put("a"), Write::Delete { key: "a".into() }],
            [put("ab"), range.clone()],
            [put("ab"), stamp.clone()],
            [stamp.clone(), stamp.clone()],
            [stamp, range.clone()],
            [range, Write::DeleteRange { range: Range::prefix("ab") }],
        ] {
            let txn = Txn { writes: pair.to_vec(), ..Txn::default() };
            assert_eq!(txn.check(&Limits::default()).unwrap_err().kind(), ErrorKind::Invalid, "{txn:?}");
        }
        let txn = Txn::new().write(put("a")).write(put("b"));
        txn.check(&Limits::default()).unwrap();
    }
}
