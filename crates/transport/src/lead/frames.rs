// SPDX-License-Identifier: Apache-2.0
//! A look at the headers of incoming frames: no HTTP/2 at all, or a flood of frames that carry nothing.
//!
//! h2 answers pings and settings without limit. It needs no memory, but it costs a core. Frames are 9 bytes of header and
//! a payload that is skipped here: RFC 9113 section 4.1.

use std::fmt;
use std::time::Duration;

use atomix_env::Instant;

/// Counts incoming frames.
#[derive(Debug)]
pub(crate) struct Frames {
    policy: Policy,
    state: State,
    /// The header of the frame that is being read.
    header: [u8; HEADER],
    second: Second,
    began: Instant,
    strikes: u32,
}

/// What is too much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) pings_per_second_max: u32,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NotHttp2,
    Flood,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// So many bytes of the preface were right.
    Preface(usize),
    /// So many bytes of a header were read.
    Header(usize),
    /// So many bytes of a payload are left.
    Payload(usize),
}

#[derive(Debug, Default)]
struct Second {
    pings: u32,
    others: u32,
    /// Something that a call needs.
    useful: bool,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;

const WINDOW: Duration = Duration::from_secs(1);
const STRIKES_MAX: u32 = 3;
/// SETTINGS and PRIORITY frames in a second: no client sends more than a few in its life.
const OTHERS_PER_SECOND_MAX: u32 = 1000;
/// So many times the allowed pings in one second is no client that is a little eager.
const PINGS_FACTOR_MAX: u32 = 100;

// === impl Frames ===

impl Frames {
    pub(crate) fn new(policy: Policy, now: Instant) -> Self {
        let (state, header) = (State::Preface(0), [0; HEADER]);
        Self { policy, state, header, second: Second::default(), began: now, strikes: 0 }
    }

    /// Tells whether the preface has come.
    pub(crate) fn greeted(&self) -> bool {
        !matches!(self.state, State::Preface(_))
    }

    /// Looks at the next bytes.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Fault> {
        if now.since(self.began) >= WINDOW {
            let pings = std::mem::take(&mut self.second);
            let eager = pings.pings > self.policy.pings_per_second_max && !pings.useful;
            self.strikes = if eager { self.strikes + 1 } else { 0 };
            self.began = now;
            if self.strikes >= STRIKES_MAX {
                return Err(Fault::Flood);
            }
        }
        while !bytes.is_empty() {
            match self.state {
                State::Preface(seen) => {
                    let len = bytes.len().min(PREFACE.len() - seen);
                    if bytes[..len] != PREFACE[seen..seen + len] {
                        return Err(Fault::NotHttp2);
                    }
                    bytes = &bytes[len..];
                    let seen = seen + len;
                    self.state = if seen == PREFACE.len() { State::Header(0) } else { State::Preface(seen) };
                }
                State::Header(seen) => {
                    let len = bytes.len().min(HEADER - seen);
                    self.header[seen..seen + len].copy_from_slice(&bytes[..len]);
                    bytes = &bytes[len..];
                    self.state = State::Header(seen + len);
                    if seen + len == HEADER {
                        self.frame()?;
                    }
                }
                State::Payload(left) => {
                    let len = bytes.len().min(left);
                    bytes = &bytes[len..];
                    self.state = if len == left { State::Header(0) } else { State::Payload(left - len) };
                }
            }
        }
        Ok(())
    }

    /// Counts the frame whose header is complete.
    fn frame(&mut self) -> Result<(), Fault> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.state = if len == 0 { State::Header(0) } else { State::Payload(len) };
        match kind {
            DATA | HEADERS | WINDOW_UPDATE => self.second.useful = true,
            PING if flags & ACK == 0 => self.second.pings += 1,
            PRIORITY => self.second.others += 1,
            SETTINGS if flags & ACK == 0 => self.second.others += 1,
            _ => {}
        }
        let pings_max = self.policy.pings_per_second_max.saturating_mul(PINGS_FACTOR_MAX);
        if self.second.pings > pings_max || self.second.others > OTHERS_PER_SECOND_MAX {
            return Err(Fault::Flood);
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp2 => "the peer does not speak HTTP/2",
            Self::Flood => "the peer sends too many frames that carry nothing",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_env::{Clock, ManualClock};

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn greeted(clock: &ManualClock) -> Frames {
        let mut frames = Frames::new(Policy { pings_per_second_max: 10 }, clock.now());
        frames.read(PREFACE, clock.now()).unwrap();
        frames
    }

    #[test]
    fn the_preface_may_come_in_pieces_and_anything_else_is_refused() {
        let clock = ManualClock::new();
        let mut frames = Frames::new(Policy { pings_per_second_max: 10 }, clock.now());
        for byte in PREFACE {
            assert!(!frames.greeted());
            frames.read(&[*byte], clock.now()).unwrap();
        }
        assert!(frames.greeted());
        let mut frames = Frames::new(Policy { pings_per_second_max: 10 }, clock.now());
        assert_eq!(frames.read(b"GET / HTTP/1.1\r\n", clock.now()), Err(Fault::NotHttp2));
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let clock = ManualClock::new();
        for cut in 1..40 {
            let mut frames = greeted(&clock);
            let bytes =
                [frame(PING, 0, &[0; 8]), frame(DATA, 0, &[0; 300]), frame(SETTINGS, 0, &[0; 6])].concat();
            for piece in bytes.chunks(cut) {
                frames.read(piece, clock.now()).unwrap();
            }
            assert_eq!(
                (frames.second.pings, frames.second.others, frames.second.useful),
                (1, 1, true),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_flood_ends_the_connection_and_acknowledgements_are_free() {
        let clock = ManualClock::new();
        let mut frames = greeted(&clock);
        for _ in 0..100_000 {
            frames.read(&frame(PING, ACK, &[0; 8]), clock.now()).unwrap();
            frames.read(&frame(SETTINGS, ACK, &[]), clock.now()).unwrap();
        }
        let flood = (0..2000).find_map(|_| frames.read(&frame(PRIORITY, 0, &[0; 5]), clock.now()).err());
        assert_eq!(flood, Some(Fault::Flood));
        let mut frames = greeted(&clock);
        let flood = (0..2000).find_map(|_| frames.read(&frame(PING, 0, &[0; 8]), clock.now()).err());
        assert_eq!(flood, Some(Fault::Flood));
    }

    #[test]
    fn a_peer_that_pings_too_often_is_closed_after_three_seconds_unless_it_works() {
        for (useful, closed) in [(false, true), (true, false)] {
            let clock = ManualClock::new();
            let mut frames = greeted(&clock);
            let mut fault = None;
            for _ in 0..5 {
                for _ in 0..20 {
                    fault = fault.or_else(|| frames.read(&frame(PING, 0, &[0; 8]), clock.now()).err());
                }
                if useful {
                    frames.read(&frame(WINDOW_UPDATE, 0, &[0; 4]), clock.now()).unwrap();
                }
                clock.advance(WINDOW);
            }
            assert_eq!(fault.is_some(), closed);
        }
    }
}
