// SPDX-License-Identifier: Apache-2.0
//! Every known denial-of-service attack: each ends in a GOAWAY, a closed connection or a bound, within 16 MiB, while
//! another client is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_transport::abuse::{Attack, Client, Outcome, Report, Target};

use crate::server::ChildServer;

/// The memory that one attacker may cost.
const GROWTH_MAX_KIB: u64 = 16 << 10;
const DURATION: Duration = Duration::from_millis(1_500);
const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const COMPRESSION_ERROR: u32 = 9;

/// Calls until `stop`, and a few times more, and returns the number of calls. Each is answered within the timeout of the
/// client.
fn behave(target: &Target, mut client: Client, stop: &AtomicBool) -> u32 {
    let mut calls = 0;
    while !stop.load(Ordering::SeqCst) || calls < 50 {
        let answer = client.call(&target.small).unwrap();
        assert_eq!(answer, b"\0\0\0\0\x05hello");
        calls += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    calls
}

fn attack(attack: Attack) -> Report {
    let server = ChildServer::start();
    let mut client = Client::connect(server.target.address).unwrap();
    for _ in 0..50 {
        client.call(&server.target.small).unwrap();
    }
    client.call(&server.target.large).unwrap();
    let before = server.memory("VmRSS");
    let stop = AtomicBool::new(false);
    let (report, calls) = std::thread::scope(|scope| {
        let victim = scope.spawn(|| behave(&server.target, client, &stop));
        let report = attack.run(&server.target, DURATION);
        stop.store(true, Ordering::SeqCst);
        (report.unwrap(), victim.join().unwrap())
    });
    let growth = server.memory("VmHWM").saturating_sub(before);
    println!("{attack:?}: growth {growth} KiB, victim {calls} calls, {report:?}");
    assert!(growth <= GROWTH_MAX_KIB, "grew by {growth} KiB: {report:?}");
    // And a new client is answered.
    Client::connect(server.target.address).unwrap().call(&server.target.small).unwrap();
    report
}

fn is_thrown_out(report: &Report, codes: &[u32]) -> bool {
    match &report.outcome {
        Outcome::GoAway { code, .. } => codes.contains(code),
        Outcome::Closed => true,
        Outcome::Throttled | Outcome::Open { .. } => false,
    }
}

macro_rules! thrown_out {
    ($($name:ident $attack:ident $codes:expr;)+) => {
        $(#[test]
        fn $name() {
            let report = attack(Attack::$attack);
            assert!(is_thrown_out(&report, &$codes), "{report:?}");
        })+
    };
}

thrown_out! {
    rapid_reset_is_thrown_out RapidReset [ENHANCE_YOUR_CALM];
    window_updates_of_zero_are_thrown_out ZeroWindowUpdate [ENHANCE_YOUR_CALM, PROTOCOL_ERROR];
    data_after_the_end_is_thrown_out DataAfterEnd [ENHANCE_YOUR_CALM, PROTOCOL_ERROR, STREAM_CLOSED];
    windows_that_overflow_are_thrown_out WindowOverflow [ENHANCE_YOUR_CALM];
    headers_without_end_are_thrown_out ContinuationFlood [ENHANCE_YOUR_CALM];
    a_flood_of_pings_is_thrown_out PingFlood [ENHANCE_YOUR_CALM];
    a_flood_of_settings_is_thrown_out SettingsFlood [ENHANCE_YOUR_CALM, PROTOCOL_ERROR];
    data_without_bytes_is_thrown_out EmptyData [ENHANCE_YOUR_CALM];
    a_flood_of_priorities_is_thrown_out PriorityFlood [ENHANCE_YOUR_CALM];
    a_flood_of_window_updates_is_thrown_out WindowUpdateFlood [ENHANCE_YOUR_CALM];
    a_flood_of_unknown_frames_is_thrown_out UnknownFlood [ENHANCE_YOUR_CALM];
    more_streams_than_allowed_are_thrown_out UnfinishedStreams [ENHANCE_YOUR_CALM];
    headers_that_unpack_to_too_much_are_thrown_out HeaderBomb [ENHANCE_YOUR_CALM];
    large_headers_are_thrown_out LargeHeaders [ENHANCE_YOUR_CALM, COMPRESSION_ERROR];
    more_than_the_windows_allow_is_thrown_out WindowsIgnored [ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR];
    another_protocol_is_thrown_out OtherProtocol [PROTOCOL_ERROR];
    connections_without_a_preface_are_closed NoPreface [];
}

#[test]
fn a_flood_of_pings_that_reads_nothing_is_bounded() {
    let report = attack(Attack::PingFloodUnread);
    assert!(
        is_thrown_out(&report, &[ENHANCE_YOUR_CALM]) || report.outcome == Outcome::Throttled,
        "{report:?}"
    );
}

#[test]
fn idle_connections_cost_little() {
    let report = attack(Attack::Idle);
    assert!(matches!(report.outcome, Outcome::Open { connections: 500, .. }), "{report:?}");
}

#[test]
fn messages_without_end_wait_or_are_refused() {
    let report = attack(Attack::UnfinishedMessages);
    assert_ne!(report.outcome, Outcome::Closed, "refusals are answers");
}

#[test]
fn answers_that_find_no_window_are_bounded() {
    let report = attack(Attack::AnswersWithoutWindow);
    assert!(matches!(report.outcome, Outcome::Open { .. }), "{report:?}");
}

#[test]
fn answers_that_are_not_read_are_bounded() {
    let report = attack(Attack::AnswersUnread);
    assert!(matches!(report.outcome, Outcome::Open { .. } | Outcome::Throttled), "{report:?}");
}

#[test]
fn messages_of_four_gigabytes_are_bounded() {
    attack(Attack::HugeMessages);
}

#[test]
fn a_server_without_files_waits_instead_of_spinning_and_recovers() {
    let server = ChildServer::start_with_files(48);
    let mut first = Client::connect(server.target.address).unwrap();
    first.call(&server.target.small).unwrap();
    let clients: Vec<Client> = (0..60).map(|_| Client::connect(server.target.address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let before = server.ticks();
    std::thread::sleep(Duration::from_millis(500));
    let ticks = server.ticks() - before;
    assert!(ticks <= 10, "{ticks} ticks in half a second");
    first.call(&server.target.small).unwrap();
    drop(clients);
    Client::connect(server.target.address).unwrap().call(&server.target.small).unwrap();
}
