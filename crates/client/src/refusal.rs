// SPDX-License-Identifier: Apache-2.0
//! Reads why a server refuses a connection.
//!
//! A server with too many connections answers a new one with an empty SETTINGS and a GOAWAY that carries the reason. The
//! HTTP/2 library reports such an end as `connection closed`, so the reason is read from the bytes of the socket.

/// The bytes of a frame's head, of a GOAWAY's payload before its text, and of one setting (RFC 9113, sections 4.1, 6.8, 6.5).
const HEAD_BYTES: usize = 9;
const GOAWAY_BYTES: usize = 8;
const SETTING_BYTES: usize = 6;
const GOAWAY: u8 = 7;
const SETTINGS: u8 = 4;
/// The longest beginning that is kept: what a refusal needs at most is far less.
const BYTES_MAX: usize = 1024;

/// Looks at the first bytes of a connection.
#[derive(Debug, Default)]
pub(crate) struct FirstFrames {
    bytes: Vec<u8>,
    decided: bool,
}

// === impl FirstFrames ===

impl FirstFrames {
    /// Takes the next bytes that the server sent. Returns the reason, once, if they complete a refusal.
    pub(crate) fn refusal(&mut self, received: &[u8]) -> Option<String> {
        if self.decided || received.is_empty() {
            return None;
        }
        let room = BYTES_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&received[..received.len().min(room)]);
        let reason = match read(&self.bytes) {
            Read::Incomplete if self.bytes.len() < BYTES_MAX => return None,
            Read::Incomplete | Read::Other => None,
            Read::Refusal(reason) => Some(reason),
        };
        self.decided = true;
        self.bytes = Vec::new();
        reason
    }
}

enum Read {
    Incomplete,
    Other,
    Refusal(String),
}

fn read(bytes: &[u8]) -> Read {
    let Some((kind, settings, rest)) = frame(bytes) else { return Read::Incomplete };
    if kind != SETTINGS || settings % SETTING_BYTES != 0 {
        return Read::Other;
    }
    let Some(rest) = rest.get(settings..) else { return Read::Incomplete };
    let Some((kind, length, rest)) = frame(rest) else { return Read::Incomplete };
    if kind != GOAWAY {
        return Read::Other;
    }
    let Some(payload) = rest.get(..length) else { return Read::Incomplete };
    // A GOAWAY that names a processed stream ends a connection that was served.
    match payload.split_at_checked(GOAWAY_BYTES) {
        Some(([0, 0, 0, 0, ..], reason)) if !reason.is_empty() => {
            Read::Refusal(String::from_utf8_lossy(reason).into_owned())
        }
        _ => Read::Other,
    }
}

/// Returns the type of the frame, the length of its payload, and what follows its head.
fn frame(bytes: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&[high, middle, low, kind, ..], rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    Some((kind, usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(settings: &[u8], last: u8, reason: &str) -> Vec<u8> {
        let length = u8::try_from(settings.len()).unwrap();
        let mut bytes = vec![0, 0, length, SETTINGS, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(settings);
        let length = u8::try_from(GOAWAY_BYTES + reason.len()).unwrap();
        bytes.extend_from_slice(&[0, 0, length, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 11]);
        bytes.extend_from_slice(reason.as_bytes());
        bytes
    }

    #[test]
    fn a_reason_is_read_however_its_bytes_arrive() {
        for settings in [&[][..], &[0, 3, 0, 0, 0, 1]] {
            let bytes = refused(settings, 0, "too many connections: limit=5");
            for size in 1..=bytes.len() {
                let mut first = FirstFrames::default();
                let reasons: Vec<_> = bytes.chunks(size).filter_map(|piece| first.refusal(piece)).collect();
                assert_eq!(reasons, ["too many connections: limit=5"], "{size}");
                assert_eq!(first.refusal(&bytes), None);
            }
        }
    }

    #[test]
    fn a_served_connection_and_other_protocols_are_no_refusals() {
        let served = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0, 0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];
        let endless = vec![0, 3, 252, SETTINGS, 0, 0, 0, 0, 0].into_iter().chain([0; 2000]).collect();
        for bytes in [
            served.to_vec(),
            refused(&[], 3, "closing"),
            refused(&[], 0, ""),
            refused(&[1], 0, "settings of a wrong size"),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            endless,
        ] {
            let mut first = FirstFrames::default();
            assert_eq!(first.refusal(&bytes), None, "{bytes:?}");
            assert!(first.decided || bytes.len() < BYTES_MAX);
        }
    }
}
