// SPDX-License-Identifier: Apache-2.0
//! Answers that hand something over: confirmed, refused, or unknown.

use std::time::Duration;

use atomix_transport::abuse::{Client, Frame};
use atomix_transport::{End, Limits, Undelivered};

use crate::server::{Server, call, eventually};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;

const CONFIRMED: Option<Undelivered> = None;
const REFUSED: Option<Undelivered> = Some(Undelivered::Refused);
const UNKNOWN: Option<Undelivered> = Some(Undelivered::Unknown);

/// A client that answers a ping only on command.
struct Caller {
    client: Client,
    /// Frames that were read and not looked for yet.
    frames: Vec<Frame>,
}

impl Caller {
    fn new(server: &Server) -> Self {
        let mut client = Client::connect(server.target.address).unwrap();
        client.call(&server.target.small).unwrap();
        client.raw().acknowledge_nothing();
        Self { client, frames: Vec::new() }
    }

    fn start(&mut self, path: &str) -> u32 {
        self.client.start(&call(path)).unwrap()
    }

    /// Reads until a frame is `wanted`, and takes it; frames before it stay.
    fn wait(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            if let Some(position) = self.frames.iter().position(&wanted) {
                return self.frames.remove(position);
            }
            self.frames.extend(self.client.next_frames().unwrap());
        }
    }

    /// Waits for the last frame of an answer.
    fn answer(&mut self, stream: u32) {
        self.wait(|frame| {
            frame.stream == stream && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0
        });
    }

    fn ping(&mut self) -> Vec<u8> {
        self.wait(|frame| frame.kind == PING && frame.flags & ACK == 0).payload
    }

    fn pong(&mut self, payload: &[u8]) {
        self.client.raw().frame(PING, ACK, 0, payload);
        self.push();
    }

    /// Writes a reset at the next push.
    fn reset(&mut self, stream: u32, code: u32) {
        self.client.raw().frame(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    fn push(&mut self) {
        assert!(self.client.raw().push().unwrap());
    }

    /// Makes a call that is answered after everything that was sent before it was handled.
    fn barrier(&mut self, server: &Server) {
        let stream = self.client.start(&server.target.small).unwrap();
        self.answer(stream);
    }

    /// Answers a PING of the server that comes after everything that it has written.
    fn pings(&self) -> usize {
        self.frames.iter().filter(|frame| frame.kind == PING).count()
    }
}

fn settled(server: &Server) -> Vec<(String, Option<Undelivered>)> {
    let mut settled = server.events.settled.lock().unwrap().clone();
    settled.sort_by(|one, other| one.0.cmp(&other.0));
    settled
}

#[track_caller]
fn assert_settled(server: &Server, expected: &[(&str, Option<Undelivered>)]) {
    eventually(|| server.events.settled.lock().unwrap().len() >= expected.len());
    let settled = settled(server);
    let settled: Vec<_> = settled.iter().map(|(name, outcome)| (name.as_str(), *outcome)).collect();
    assert_eq!(settled, expected);
}

#[test]
fn a_ping_after_the_answer_confirms_it() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant");
    caller.answer(stream);
    let ping = caller.ping();
    assert_eq!(settled(&server), [], "the answer alone proves nothing");
    caller.pong(&ping);
    assert_settled(&server, &[("", CONFIRMED)]);
}

#[test]
fn a_call_without_a_receipt_costs_no_ping() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    for _ in 0..20 {
        caller.barrier(&server);
    }
    assert_eq!(caller.pings(), 0);
}

#[test]
fn a_reset_before_the_answer_is_written_refuses_it() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    // The window of new streams is closed, so that the answer waits.
    caller.client.raw().frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let stream = caller.start("/grant");
    caller.wait(|frame| frame.stream == stream && frame.kind == HEADERS);
    assert_eq!(settled(&server), []);
    caller.reset(stream, CANCEL);
    caller.push();
    assert_settled(&server, &[("", REFUSED)]);
    assert_eq!(server.counters.open(), 1);
}

#[test]
fn answers_whose_deadline_is_far_are_proved_together_by_the_sweep() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    for path in ["/grant-unhurried-1", "/grant-unhurried-2"] {
        let stream = caller.start(path);
        caller.answer(stream);
    }
    caller.barrier(&server);
    assert_eq!(caller.pings(), 0, "no answer is urgent");
    let ping = caller.ping();
    caller.pong(&ping);
    assert_settled(&server, &[("-unhurried-1", CONFIRMED), ("-unhurried-2", CONFIRMED)]);
}

#[test]
fn a_reset_that_crosses_the_answer_refuses_it() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant");
    caller.answer(stream);
    let ping = caller.ping();
    caller.reset(stream, CANCEL);
    caller.pong(&ping);
    assert_settled(&server, &[("", REFUSED)]);
    caller.barrier(&server);
    assert_eq!(server.counters.open(), 1, "the caller knows that it gave up");
}

#[test]
fn a_reset_that_the_proof_has_overtaken_is_a_refusal() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant");
    caller.answer(stream);
    let ping = caller.ping();
    // As nghttp2 sends them: the answer to the PING has priority over a reset that is queued.
    caller.pong(&ping);
    caller.reset(stream, CANCEL);
    caller.push();
    assert_settled(&server, &[("", REFUSED)]);
    caller.barrier(&server);
    assert_eq!(server.counters.open(), 1);
}

#[test]
fn a_reset_without_an_error_is_no_refusal() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant");
    caller.answer(stream);
    let ping = caller.ping();
    caller.reset(stream, NO_ERROR);
    caller.push();
    caller.barrier(&server);
    assert_eq!(settled(&server), []);
    caller.pong(&ping);
    assert_settled(&server, &[("", CONFIRMED)]);
}

#[test]
fn a_proof_after_the_deadline_leaves_the_outcome_to_the_service() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant-late");
    caller.answer(stream);
    let ping = caller.ping();
    assert_eq!(settled(&server), [], "until the proof a reset may still come");
    caller.pong(&ping);
    assert_settled(&server, &[("-late", UNKNOWN)]);
    caller.barrier(&server);
    assert_eq!(server.counters.open(), 1);
}

#[test]
fn a_reset_after_the_deadline_and_before_the_proof_is_a_refusal() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant-late");
    caller.answer(stream);
    let ping = caller.ping();
    caller.reset(stream, CANCEL);
    caller.pong(&ping);
    assert_settled(&server, &[("-late", REFUSED)]);
    caller.barrier(&server);
    assert_eq!(server.counters.open(), 1);
}

#[test]
fn a_connection_that_is_cut_refuses_what_it_did_not_confirm() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    for path in ["/grant-1", "/grant-2"] {
        let stream = caller.start(path);
        caller.answer(stream);
    }
    drop(caller);
    assert_settled(&server, &[("-1", REFUSED), ("-2", REFUSED)]);
}

#[test]
fn one_ping_confirms_all_answers_before_it_and_none_after_it() {
    let server = Server::start(Limits::default());
    let mut caller = Caller::new(&server);
    let first = caller.start("/grant-1");
    caller.answer(first);
    let ping = caller.ping();
    for path in ["/grant-2", "/grant-3"] {
        let stream = caller.start(path);
        caller.answer(stream);
    }
    assert_eq!(caller.pings(), 0, "one is in flight at a time");
    caller.pong(&ping);
    let ping = caller.ping();
    assert_settled(&server, &[("-1", CONFIRMED)]);
    caller.pong(&ping);
    assert_settled(&server, &[("-1", CONFIRMED), ("-2", CONFIRMED), ("-3", CONFIRMED)]);
    caller.barrier(&server);
    assert_eq!(caller.pings(), 0);
}

#[test]
fn a_peer_that_proves_nothing_is_lost_with_what_it_was_handed() {
    // Longer than the test takes; what is over is the time to answer the ping for the answer.
    let limits = Limits { ping_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(limits);
    let mut caller = Caller::new(&server);
    let stream = caller.start("/grant");
    caller.answer(stream);
    assert_settled(&server, &[("", REFUSED)]);
    eventually(|| server.counters.ended(End::Lost) == 1);
}

#[test]
fn more_unproven_answers_than_streams_explain_end_the_connection() {
    let server = Server::start(Limits { streams_per_connection_max: 2, ..Limits::default() });
    let mut caller = Caller::new(&server);
    for _ in 0..8 {
        let stream = caller.start("/grant");
        caller.answer(stream);
    }
    assert_eq!(server.counters.open(), 1);
    caller.start("/grant");
    eventually(|| server.counters.ended(End::Lost) == 1);
    assert_settled(&server, &[("", REFUSED); 9]);
}
