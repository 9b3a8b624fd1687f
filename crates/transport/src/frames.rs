// SPDX-License-Identifier: Apache-2.0
//! Reads along with HTTP/2, headers of frames only, to see what HTTP/2 itself lets pass: floods of control frames.

use std::time::Duration;

use atomix_env::Instant;

/// Bytes of the client's preface.
const PREFACE_BYTES: usize = 24;
/// Bytes that distinguish a request of HTTP/1 from the preface and from everything else.
const METHOD_BYTES: usize = 4;
/// The beginnings of such requests.
const METHODS: [&[u8; METHOD_BYTES]; 8] =
    [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC"];
/// Bytes of a frame's header.
const HEAD_BYTES: usize = 9;
/// Frames without work in one second. A client at its busiest sends a handful of SETTINGS in its life.
const CONTROL_PER_SECOND_MAX: u32 = 1_000;
/// Pings in one second without work for which we do not wait three seconds.
const PING_BURST_MAX: u32 = 1_000;
/// Seconds in a row with too many pings.
const STRIKES_MAX: u32 = 3;
/// Window updates that one frame of ours may cause: for the stream and for the connection, on arrival and on reading.
const UPDATES_PER_FRAME: u32 = 4;
/// Window updates that a new connection may send before it got anything.
const UPDATES_AT_FIRST: u32 = 1 << 12;
/// Window updates that may be saved up: more than any client holds back.
const UPDATES_SAVED_MAX: u32 = 1 << 16;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
/// The payload of the PING that h2 lets its users send.
const USER_PING: u64 = 0x3b7c_db7a_0b87_16b4;
/// Bytes of the longest payload that is kept.
const KEPT_BYTES: usize = 8;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) bytes: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// The payload of a PING or `RST_STREAM`; zero for other frames.
    pub(crate) payload: u64,
}

/// Finds the frames in one direction of a connection, however its bytes are cut.
#[derive(Debug)]
pub(crate) struct Framing {
    /// Bytes until the next header.
    skip: usize,
    /// The header and the payload of small frames that matter.
    head: [u8; HEAD_BYTES + KEPT_BYTES],
    have: usize,
    /// Bytes of `head` that make it whole, as far as known.
    want: usize,
    frames: u64,
}

/// Counts what a peer sends and finds floods.
#[derive(Debug)]
pub(crate) struct Pace {
    pings_per_second_max: u32,
    /// The current second of the pings.
    second: Instant,
    pings: u32,
    /// Frames in this second that explain a ping: clients measure the path when something moves on it.
    work: u32,
    strikes: u32,
    control: u32,
    control_since: Instant,
    updates_saved: u32,
    /// Pings of ours that were not answered yet.
    pongs_due: u32,
}

/// The protocol that a peer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Too few bytes are here.
    Unknown,
    Http1,
    /// HTTP/2, or something that HTTP/2 refuses.
    Http2,
}

/// The kind of frames that a peer sent too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    Pings,
    Control,
}

// === impl Framing ===

impl Framing {
    /// For what a client sends.
    pub(crate) fn of_client() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; HEAD_BYTES + KEPT_BYTES], have: 0, want: HEAD_BYTES, frames: 0 }
    }

    /// For what a server sends.
    pub(crate) fn of_server() -> Self {
        Self { skip: 0, ..Self::of_client() }
    }

    /// Calls `each` for every header that ends in `bytes`.
    pub(crate) fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.want - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < self.want {
                continue;
            }
            let [a, b, c, kind, flags, s0, s1, s2, s3, payload @ ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let kept = self.want - HEAD_BYTES;
            if kept == 0 && matches!((kind, length), (RST_STREAM, 4) | (PING, 8)) {
                self.want = HEAD_BYTES + length as usize;
                continue;
            }
            let payload = u64::from_be_bytes(payload);
            let head = Head {
                bytes: length,
                kind,
                flags,
                // The highest bit is reserved.
                stream: u32::from_be_bytes([s0, s1, s2, s3]) & (u32::MAX >> 1),
                payload: if kept == 0 { 0 } else { payload >> (8 * (KEPT_BYTES - kept)) },
            };
            (self.have, self.want) = (0, HEAD_BYTES);
            self.skip = length as usize - kept;
            self.frames += 1;
            each(head);
        }
    }

    /// Returns whether the bytes so far end with a whole frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }

    /// Returns whether at least one whole frame was there.
    pub(crate) fn has_begun(&self) -> bool {
        self.frames > 1 || (self.frames == 1 && self.skip == 0)
    }
}

// === impl Head ===

impl Head {
    /// Returns whether a call begins or goes on with this frame.
    pub(crate) fn is_work(self) -> bool {
        self.kind == HEADERS || (self.kind == DATA && self.bytes > 0)
    }

    /// Returns whether this frame may open a stream.
    pub(crate) fn is_headers(self) -> bool {
        self.kind == HEADERS
    }

    /// Returns whether this is the last frame of its sender on its stream, resets aside.
    pub(crate) fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// Returns the code with which this frame resets its stream.
    pub(crate) fn reset(self) -> Option<h2::Reason> {
        // A reset of another length is an error of HTTP/2, which ends the connection.
        (self.kind == RST_STREAM).then(|| u32::try_from(self.payload).unwrap_or(u32::MAX).into())
    }

    /// Returns whether this answers the PING that [`h2::PingPong`] sends.
    pub(crate) fn is_pong(self) -> bool {
        self.kind == PING && self.flags & ACK != 0 && self.payload == USER_PING
    }
}

// === impl Pace ===

impl Pace {
    pub(crate) fn new(pings_per_second_max: u32, now: Instant) -> Self {
        Self {
            pings_per_second_max,
            second: now,
            pings: 0,
            work: 0,
            strikes: 0,
            control: 0,
            control_since: now,
            updates_saved: UPDATES_AT_FIRST,
            pongs_due: 0,
        }
    }

    /// Notes a frame that we sent.
    pub(crate) fn sent(&mut self, head: Head) {
        if head.is_work() {
            self.work = self.work.saturating_add(1);
            self.updates_saved = (self.updates_saved + UPDATES_PER_FRAME).min(UPDATES_SAVED_MAX);
        } else if head.kind == PING && head.flags & ACK == 0 {
            self.pongs_due += 1;
        }
    }

    /// Notes a frame of the peer. Asks for the time only when it matters, which is never on the path of a call.
    pub(crate) fn received(&mut self, head: Head, now: impl FnOnce() -> Instant) -> Result<(), Flood> {
        match head.kind {
            HEADERS | DATA => {
                // Empty DATA is HTTP/2's own to bound.
                if head.is_work() {
                    self.work = self.work.saturating_add(1);
                }
                Ok(())
            }
            // HTTP/2 bounds these itself.
            RST_STREAM | CONTINUATION => Ok(()),
            PING if head.flags & ACK == 0 => self.ping(now()),
            PING if self.pongs_due > 0 => {
                self.pongs_due -= 1;
                Ok(())
            }
            WINDOW_UPDATE => {
                self.work = self.work.saturating_add(1);
                if self.updates_saved > 0 {
                    self.updates_saved -= 1;
                    return Ok(());
                }
                self.control(now)
            }
            // SETTINGS, PRIORITY, GOAWAY, answers to pings that we did not send, and kinds that are not known.
            _ => self.control(now),
        }
    }

    fn ping(&mut self, now: Instant) -> Result<(), Flood> {
        let elapsed = now.since(self.second);
        if elapsed >= Duration::from_secs(1) {
            let seconds = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
            let allowed = self.pings_per_second_max.saturating_mul(seconds);
            self.strikes = if self.unexplained() > allowed { self.strikes + 1 } else { 0 };
            (self.second, self.pings, self.work) = (now, 0, 0);
        }
        self.pings = self.pings.saturating_add(1);
        if self.strikes >= STRIKES_MAX || self.unexplained() > PING_BURST_MAX {
            return Err(Flood::Pings);
        }
        Ok(())
    }

    fn unexplained(&self) -> u32 {
        self.pings.saturating_sub(self.work)
    }

    fn control(&mut self, now: impl FnOnce() -> Instant) -> Result<(), Flood> {
        self.control += 1;
        if self.control <= CONTROL_PER_SECOND_MAX {
            return Ok(());
        }
        let now = now();
        if now.since(self.control_since) < Duration::from_secs(1) {
            return Err(Flood::Control);
        }
        (self.control, self.control_since) = (0, now);
        Ok(())
    }
}

// === impl Greeting ===

impl Greeting {
    /// Looks at the first bytes of a connection.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes.first_chunk() {
            None => Self::Unknown,
            Some(first) if METHODS.contains(&first) => Self::Http1,
            Some(_) => Self::Http2,
        }
    }
}

/// Returns a GOAWAY frame with `ENHANCE_YOUR_CALM` and a reason, of which at most 240 bytes are sent.
pub(crate) fn go_away(last: u32, reason: &str) -> Vec<u8> {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let reason = &reason.as_bytes()[..reason.len().min(240)];
    let bytes = u8::try_from(8 + reason.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0, 0, bytes, GO_AWAY, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&last.to_be_bytes());
    frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

/// Returns a SETTINGS frame without settings, with which a server begins.
pub(crate) fn empty_settings() -> Vec<u8> {
    const SETTINGS: u8 = 4;
    vec![0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]
}

// === impl Flood ===

impl Flood {
    /// The GOAWAY frame with the reason for the end of the connection. `last` is the last stream that was read.
    pub(crate) fn go_away(self, last: u32) -> Vec<u8> {
        go_away(last, self.reason())
    }

    /// The word that gRPC libraries know for pings, and one like it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Pings => "too_many_pings",
            Self::Control => "too_many_control_frames",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_env::{Clock, ManualClock};
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    const PRIORITY: u8 = 2;
    const SETTINGS: u8 = 4;

    fn head(kind: u8, bytes: u32) -> Head {
        Head { bytes, kind, flags: 0, stream: 1, payload: 0 }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (u32::try_from(payload.len()).unwrap()).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frame(PING, 0, 0, &[7; 8]));
        bytes.extend(frame(DATA, 1, 0x8000_0003, &[0; 300]));
        bytes.extend(frame(PING, ACK, 0, &USER_PING.to_be_bytes()));
        bytes.extend(frame(RST_STREAM, 0, 5, &8_u32.to_be_bytes()));
        bytes.extend(frame(PING, 0, 0, &[7; 9]));
        let sevens = 0x0707_0707_0707_0707;
        let expected = [
            (0, SETTINGS, 0, 0, 0),
            (8, PING, 0, 0, sevens),
            (300, DATA, 1, 3, 0),
            (8, PING, 1, 0, USER_PING),
            (4, RST_STREAM, 0, 5, 8),
            (9, PING, 0, 0, 0),
        ];
        for cut in 1..=bytes.len() {
            let (mut framing, mut found) = (Framing::of_client(), Vec::new());
            for piece in bytes.chunks(cut) {
                framing.read(piece, |head| {
                    found.push((head.bytes, head.kind, head.flags, head.stream, head.payload));
                });
            }
            assert_eq!(found, expected, "pieces of {cut}");
            assert!(framing.is_between_frames());
        }
    }

    #[test]
    fn a_request_of_http_1_is_told_from_the_preface_by_four_bytes() {
        for (bytes, greeting) in [
            (&b""[..], Greeting::Unknown),
            (b"PRI", Greeting::Unknown),
            (b"GET", Greeting::Unknown),
            (b"PRI *", Greeting::Http2),
            (b"GET / HTTP/1.1", Greeting::Http1),
            (b"POST", Greeting::Http1),
            (b"\x16\x03\x01\x02", Greeting::Http2),
        ] {
            assert_eq!(Greeting::of(bytes), greeting, "{bytes:?}");
        }
    }

    #[test]
    fn a_connection_has_begun_when_its_first_frame_is_whole() {
        let mut framing = Framing::of_client();
        framing.read(&[0; PREFACE_BYTES], |_| {});
        assert!(framing.is_between_frames() && !framing.has_begun());
        let settings = frame(SETTINGS, 0, 0, &[0; 6]);
        framing.read(&settings[..14], |_| {});
        assert!(!framing.has_begun());
        framing.read(&settings[14..], |_| {});
        assert!(framing.has_begun());
    }

    /// Sends pings at an even pace, each after `before`; returns whether the connection lives.
    fn lives(
        clock: &ManualClock,
        pace: &mut Pace,
        seconds: u32,
        each: u32,
        before: impl Fn(&mut Pace),
    ) -> bool {
        (0..seconds * each).all(|_| {
            clock.advance(Duration::from_secs(1) / each);
            before(pace);
            pace.received(head(PING, 8), || clock.now()).is_ok()
        })
    }

    #[test]
    fn ten_pings_a_second_are_allowed_for_ever_and_twenty_for_three_seconds() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(10, clock.now());
        assert!(lives(&clock, &mut pace, 60, 10, |_| {}));
        assert!(lives(&clock, &mut pace, 2, 20, |_| {}));
        assert!(lives(&clock, &mut pace, 5, 1, |_| {}), "a calm second forgives");
        assert!(!lives(&clock, &mut pace, 5, 20, |_| {}));
    }

    #[test]
    fn pings_that_follow_work_are_free() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(10, clock.now());
        let sent = |pace: &mut Pace| pace.sent(head(DATA, 50));
        assert!(lives(&clock, &mut pace, 20, 5_000, sent), "a watcher that measures its path");
        let got = |pace: &mut Pace| pace.received(head(DATA, 50), || unreachable!()).unwrap();
        assert!(lives(&clock, &mut pace, 20, 5_000, got));
        let empty = |pace: &mut Pace| pace.received(head(DATA, 0), || unreachable!()).unwrap();
        assert!(!lives(&clock, &mut pace, 20, 100, empty), "empty frames explain nothing");
    }

    #[test]
    fn a_burst_of_pings_ends_at_once() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(10, clock.now());
        let sent = (0..5_000).take_while(|_| pace.received(head(PING, 8), || clock.now()).is_ok()).count();
        assert_eq!(sent, 1_000);
    }

    #[test]
    fn our_ping_is_the_one_that_h2_sends() {
        let (near, far) = tokio::io::duplex(1 << 10);
        let mut context = Context::from_waker(Waker::noop());
        let mut handshake = pin!(h2::server::handshake(near));
        let (mut far, mut framing) = (pin!(far), Framing::of_server());
        let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
        assert!(far.as_mut().poll_write(&mut context, &hello).is_ready());
        let Poll::Ready(Ok(mut server)) = handshake.as_mut().poll(&mut context) else { panic!("it waits") };
        server.ping_pong().unwrap().send_ping(h2::Ping::opaque()).unwrap();
        assert!(server.poll_accept(&mut context).is_pending());
        let mut bytes = [0; 1 << 10];
        let mut buffer = ReadBuf::new(&mut bytes);
        assert!(far.poll_read(&mut context, &mut buffer).is_ready());
        let mut payloads = Vec::new();
        framing.read(buffer.filled(), |head| payloads.extend((head.kind == PING).then_some(head.payload)));
        assert_eq!(payloads, [USER_PING]);
    }

    #[test]
    fn answers_to_our_pings_are_no_flood_however_many() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(0, clock.now());
        for _ in 0..100_000 {
            pace.sent(head(PING, 8));
            pace.received(Head { flags: ACK, ..head(PING, 8) }, || unreachable!()).unwrap();
        }
        let answer = Head { flags: ACK, ..head(PING, 8) };
        let unasked = (0..5_000).take_while(|_| pace.received(answer, || clock.now()).is_ok()).count();
        assert!(unasked <= 2_000, "{unasked}");
    }

    #[test]
    fn answers_to_our_pings_are_no_pings() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(0, clock.now());
        for _ in 0..500 {
            clock.advance(Duration::from_secs(30));
            pace.received(Head { flags: ACK, ..head(PING, 8) }, || clock.now()).unwrap();
        }
    }

    #[test]
    fn control_frames_without_work_are_bounded() {
        let clock: Arc<ManualClock> = ManualClock::new();
        for kind in [SETTINGS, PRIORITY, GO_AWAY, 0xfa] {
            let mut pace = Pace::new(10, clock.now());
            for _ in 0..10_000 {
                clock.advance(Duration::from_millis(2));
                pace.received(head(kind, 0), || clock.now()).unwrap();
            }
            let sent =
                (0..5_000).take_while(|_| pace.received(head(kind, 0), || clock.now()).is_ok()).count();
            assert!(sent <= 2_000, "{sent}");
        }
    }

    #[test]
    fn window_updates_are_paid_by_what_was_sent() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(10, clock.now());
        for _ in 0..100_000 {
            pace.sent(head(DATA, 100));
            pace.received(head(WINDOW_UPDATE, 4), || clock.now()).unwrap();
            pace.received(head(WINDOW_UPDATE, 4), || clock.now()).unwrap();
        }
        let mut flood =
            (0..100_000).take_while(|_| pace.received(head(WINDOW_UPDATE, 4), || clock.now()).is_ok());
        let sent = flood.by_ref().count();
        assert!(sent < 70_000, "{sent}");
    }

    #[test]
    fn the_farewell_is_one_whole_frame() {
        for flood in [Flood::Pings, Flood::Control] {
            let mut framing = Framing::of_server();
            let mut heads = Vec::new();
            framing.read(&flood.go_away(5), |head| heads.push(head.kind));
            assert_eq!(heads, [GO_AWAY]);
            assert!(framing.is_between_frames());
        }
    }
}
