// SPDX-License-Identifier: Apache-2.0
//! The disk store of the real program, on disks that lose power, fill up, fail and are damaged.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "processes and disks are awaited in real time, and results and skipped tests are printed"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use atomix_chaos::disks::{Disk, Ram, Shim, mount_missing};
use atomix_chaos::record::{Crash, Recorder};
use atomix_chaos::rounds::{Address, Durability, Report, kills, options, power_cuts, serve, serve_at};
use atomix_chaos::{Server, program};
use atomix_client::Kind;
use atomix_conformance::Dice;
use atomix_proto::counter;
use atomix_proto::runtime::PrimitiveId;
use counter::counter_client::CounterClient;

const SEED: u64 = 20_261_124;
/// Timeout of an expected event.
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

fn assert_right(report: &Report) {
    println!("{report}");
    assert!(report.done > 0, "{report}");
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
}

/// Returns whether disks can be mounted, and prints why not.
fn mounts() -> bool {
    let missing = mount_missing();
    if let Some(missing) = &missing {
        println!("skipped, disks cannot be mounted here: {missing}");
    }
    missing.is_none()
}

fn offline(arguments: &[&str], path: &Path) -> Output {
    Command::new(program()).args(arguments).arg(path).output().unwrap()
}

fn verify(path: &Path) -> Output {
    offline(&["store", "verify"], path)
}

fn output_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Repeats something until it works.
async fn until_it_works<F: Future<Output = atomix_client::Result<()>>>(attempt: impl Fn() -> F) {
    let began = Instant::now();
    while let Err(error) = attempt().await {
        assert!(began.elapsed() < WAIT_TIMEOUT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_kept_every_answer() {
    for (durability, rounds) in [(Durability::Sync, 6), (Durability::Interval, 3)] {
        let folder = tempfile::tempdir().unwrap();
        assert_right(&kills(&folder.path().join("store"), rounds, SEED, durability).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_answered_or_shown() {
    if mounts() {
        let shim = Shim::build().unwrap();
        assert_right(&power_cuts(3, SEED, Durability::Sync, &shim).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_reported_and_the_store_recovers_without_a_restart() {
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::build().unwrap());
    let dir = folder.path().join("store");
    let address = Address::free();
    let mut command = serve_at(address, &dir, Durability::Sync);
    shim.preload(&mut command);
    let mut server = Server::start_command(command);
    let client = server.once().await;
    let note = client.value("note").text().open().await.unwrap();
    note.set(&"before".to_owned()).await.unwrap();

    shim.fail_once();
    note.set(&"once".to_owned()).await.unwrap();
    assert!(!shim.is_set(), "no sync has failed");

    let recorder = Recorder::start(&[address.endpoint()], SEED, &options("sync"));
    recorder.answered(200).await;
    shim.fail();
    let began = Instant::now();
    let refused = loop {
        // The outcome of the write whose sync fails first may be unknown.
        match note.set(&"refused".to_owned()).await {
            Err(error) if error.kind() == Kind::Unavailable => break error,
            other => assert!(began.elapsed() < WAIT_TIMEOUT, "{other:?}"),
        }
    };
    assert_eq!(refused.reason(), Some("STORE_UNAVAILABLE"), "{refused}");
    assert!(refused.message().contains("the disk does not work"), "{refused}");
    note.get().await.expect("reads go on");
    let refused = recorder.counts().refused;
    recorder.reached("calls are refused", |counts| counts.refused > refused + 20).await;
    shim.work();
    until_it_works(|| async { note.set(&"after".to_owned()).await.map(drop) }).await;
    recorder.answered(100).await;

    server.kill();
    let server = Server::start_command(serve_at(address, &dir, Durability::Sync));
    recorder.answered(200).await;
    let mut report = Report::default();
    report.judge(recorder.finish().await, None).await;
    assert_right(&report);
    let note = server.once().await.value("note").text().open().await.unwrap();
    assert_eq!(note.get().await.unwrap().unwrap().value, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_growth_and_goes_on_when_there_is_room() {
    if !mounts() {
        return;
    }
    let ram = Ram::mount(16).unwrap();
    let (dir, filler) = (ram.path().join("store"), ram.path().join("filler"));
    let address = Address::free();
    let mut command = serve_at(address, &dir, Durability::Sync);
    let routes =
        "routes=[{\"store\":{\"name\":\"ram\"},\"tags\":[\"fast\"]},{\"store\":{\"name\":\"disk\"}}]";
    command.args(["--set", routes]);
    let mut server = Server::start_command(command);
    let client = server.once().await;
    let map = client.map("large").text().open().await.unwrap();
    let other = client.counter("other").tag("fast").open().await.unwrap();
    other.increment(1).await.unwrap();
    let large = "x".repeat(64 << 10);
    map.put("kept", &large).await.unwrap();

    let recorder = Recorder::start(&[address.endpoint()], SEED, &options("full"));
    recorder.answered(200).await;
    fill(&filler);
    let mut written = 0;
    let refused = loop {
        match map.put(format!("key-{written}"), &large).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk does not fill up");
    };
    assert_eq!((refused.kind(), refused.reason()), (Kind::Unavailable, Some("STORE_FULL")), "{refused}");
    assert!(refused.message().contains("disk is full: make room"), "{refused}");
    assert_eq!(map.get("kept").await.unwrap().unwrap().value, large, "reads go on");
    other.increment(1).await.unwrap();
    map.remove("kept").await.unwrap().expect("deletes go on");
    let is_full = |error: &String| error.starts_with("write") && error.contains("STORE_FULL");
    recorder.reached("a write is refused", |counts| counts.errors.keys().any(is_full)).await;

    fs::remove_file(&filler).unwrap();
    until_it_works(|| async { map.put("after", &large).await.map(drop) }).await;
    recorder.answered(100).await;

    server.kill();
    let server = Server::start_command(serve_at(address, &dir, Durability::Sync));
    recorder.answered(200).await;
    let mut report = Report::default();
    report.judge(recorder.finish().await, None).await;
    assert_right(&report);
    let map = server.once().await.map("large").text().open().await.unwrap();
    for key in (0..written).map(|at| format!("key-{at}")).chain(["after".to_owned()]) {
        assert_eq!(map.get(key.as_str()).await.unwrap().unwrap().value, large, "{key}");
    }
    assert_eq!(map.get("kept").await.unwrap(), None);
    assert_eq!(map.get(format!("key-{written}")).await.unwrap(), None, "it was refused");
}

/// Writes a file until there is no room for one more block.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write(&[1; 4096]).is_ok() {}
}

#[tokio::test]
async fn a_start_on_a_full_disk_is_reported_and_the_store_opens_when_there_is_room() {
    if !mounts() {
        return;
    }
    let ram = Ram::mount(16).unwrap();
    let (dir, filler) = (ram.path().join("store"), ram.path().join("filler"));
    let mut server = Server::start_command(serve(&dir, Durability::Sync));
    server.client().await.counter("hits").open().await.unwrap().increment(7).await.unwrap();
    server.kill();
    fill(&filler);
    let server = Server::start_command(serve(&dir, Durability::Sync));
    let client = server.once().await;
    // The content is there, and nothing that grows is taken.
    let hits = client.counter("hits").open().await.unwrap();
    assert_eq!(hits.get().await.unwrap(), 7);
    let large = "x".repeat(64 << 10);
    let mut written = 0;
    let put = async |key: u32| {
        let map = client.map("large").text().open().await?;
        map.put(key.to_string(), &large).await.map(drop)
    };
    let refused = loop {
        match put(written).await {
            Ok(()) => written += 1,
            Err(refused) => break refused,
        }
        assert!(written < 1000, "the room that is set aside is bounded");
    };
    assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
    assert!(refused.message().contains("make room"), "{refused}");
    fs::remove_file(&filler).unwrap();
    until_it_works(|| put(written)).await;
    assert_eq!(hits.get().await.unwrap(), 7);
}

#[tokio::test]
async fn two_processes_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Server::start_command(serve(folder.path(), Durability::Sync));
    let hits = first.client().await.counter("hits").open().await.unwrap();
    hits.increment(7).await.unwrap();
    let second = Server::start_command(serve(folder.path(), Durability::Sync));
    let output = output_of(&second.run(&["store", "list"]));
    assert!(
        output.contains("in use by another process") && output.contains(&first.id().to_string()),
        "{output}"
    );
    let client = second.once().await;
    let refused = client.counter("hits").open().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
    let unverified = verify(folder.path());
    assert!(!unverified.status.success() && output_of(&unverified).contains("in use"), "{unverified:?}");
    hits.increment(1).await.unwrap();
    first.kill();
    until_it_works(|| async { client.counter("hits").open().await.map(drop) }).await;
    let hits = client.counter("hits").open().await.unwrap();
    assert_eq!(hits.get().await.unwrap(), 8);
}

/// A store with a snapshot, an old log and a new one, and what its map must hold.
async fn written(folder: &Path, gently: bool) -> Vec<(String, String)> {
    let mut dice = Dice::new(SEED);
    let mut expected = Vec::new();
    for round in 0..2 {
        let mut server = Server::start_command(serve(folder, Durability::Sync));
        let map = server.client().await.map("m").text().open().await.unwrap();
        for at in 0..60 {
            let (key, len) = (format!("key-{round}-{at}"), 1 + dice.index(40_000));
            let value = format!("{key} {}", "v".repeat(len));
            map.put(key.as_str(), &value).await.unwrap();
            expected.push((key, value));
        }
        if gently {
            let id = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            assert_eq!(server.wait(Duration::from_secs(12)), Some(0));
        } else {
            server.kill();
        }
    }
    expected
}

/// The files that count: not the lock, nor what was never completed.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .filter(|(path, _)| path.extension().is_none() && !path.ends_with("lock"))
        .collect();
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Starts a server on a folder and looks whether it shows all of this, and nothing else.
async fn serves(folder: &Path, expected: &[(String, String)]) {
    let server = Server::start_command(serve(folder, Durability::Sync));
    let map = server.client().await.map("m").text().open().await.unwrap();
    let mut found: Vec<_> = map.entries().await.unwrap().collect().await.unwrap();
    found.sort_by(|one, other| one.key.cmp(&other.key));
    let found: Vec<_> = found.into_iter().map(|entry| (entry.key, entry.value.value)).collect();
    let mut expected = expected.to_vec();
    expected.sort();
    assert!(found == expected, "{} of {} entries", found.len(), expected.len());
}

#[tokio::test]
async fn damage_is_found_and_reported_and_nothing_wrong_is_served() {
    for gently in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let expected = written(&dir, gently).await;
        let mut whole = files(&dir);
        let snapshot =
            whole.iter().map(|(path, _)| name(path)).filter(|name| name.starts_with("snapshot-")).max();
        let newest = snapshot.expect("logs are replaced").split_off("snapshot-".len());
        // A kill may have come before what the snapshot replaces was removed.
        whole.retain(|(path, _)| name(path).split('-').next_back() >= Some(newest.as_str()));
        // Room that is set aside holds nothing.
        whole.retain(|(path, _)| !name(path).starts_with("reserve"));
        serves(&dir, &expected).await;
        for (path, bytes) in whole.iter().filter(|_| gently) {
            fs::remove_file(path).unwrap();
            let output = output_of(&verify(&dir));
            assert!(
                output.contains("damaged") && output.contains("missing"),
                "without {}: {output}",
                path.display()
            );
            fs::write(path, bytes).unwrap();
        }
        let (mut dice, mut found) = (Dice::new(SEED), 0);
        for case in 0..24 {
            let dir = folder.path().join(format!("damaged-{case}"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("lock"), "").unwrap();
            let (damaged, cut) = (case % whole.len(), dice.roll(3) == 0);
            let file = name(&whole[damaged].0);
            for (at, (path, bytes)) in whole.iter().enumerate() {
                let mut bytes = bytes.clone();
                let content = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
                if at == damaged && cut {
                    bytes.truncate(dice.index(content));
                } else if at == damaged {
                    bytes[dice.index(content)] ^= 1 << dice.roll(8);
                }
                fs::write(dir.join(path.file_name().unwrap()), bytes).unwrap();
            }
            let verified = verify(&dir);
            if verified.status.success() {
                // The padding of a frame is not read, nor a log beyond the beginning of the next one.
                serves(&dir, &expected).await;
                continue;
            }
            found += 1;
            let output = output_of(&verified);
            assert!(
                output.contains("damaged") && output.contains("restore a backup") && output.contains(&file),
                "{output}"
            );
            if case < 6 {
                let before = files(&dir);
                let server = Server::start_command(serve(&dir, Durability::Sync));
                let output = output_of(&server.run(&["store", "list"]));
                assert!(output.contains("damaged") && output.contains(&file), "{output}");
                let refused = server.once().await.map("m").open().await.unwrap_err();
                assert!(matches!(refused.kind(), Kind::Unavailable | Kind::DataLoss), "{refused:?}");
                drop(server);
                assert!(files(&dir) == before, "a damaged store is left as it is");
            }
        }
        assert!(found > 15, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_what_was_answered_before_and_no_half() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("backup"), folder.path().join("copy"));
    let address = Address::free();
    let store = folder.path().join("store");
    let mut server = Server::start_command(serve_at(address, &store, Durability::Sync));
    let recorder = Recorder::start(&[address.endpoint()], SEED, &options("backup"));
    recorder.answered(500).await;
    let began = recorder.now();
    let backup =
        tokio::process::Command::from(server.command(&["store", "backup", "disk", file.to_str().unwrap()]));
    let output = { backup }.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    recorder.answered(100).await;
    server.kill();
    let crash = Crash { synced: began, dead: recorder.now() };
    let whole = verify(&file);
    assert!(whole.status.success(), "{whole:?}");
    let restored = offline(&["store", "restore", file.to_str().unwrap()], &copy);
    assert!(restored.status.success(), "{restored:?}");
    let again = offline(&["store", "restore", file.to_str().unwrap()], &copy);
    assert!(!again.status.success() && output_of(&again).contains("must be empty"), "{again:?}");
    assert!(output_of(&verify(&copy)).contains("whole"));
    let _server = Server::start_command(serve_at(address, &copy, Durability::Sync));
    recorder.answered(200).await;
    let mut report = Report::default();
    report.judge(recorder.finish().await, Some(crash)).await;
    assert_right(&report);
    assert!(report.cut > 0, "the load went on after the backup");
}

/// Overwrites the end of the newest log with zeros, as if its last writes had never reached the disk, where the store does
/// not notice it.
fn lose_the_end_of_the_log(dir: &Path) {
    let logs = files(dir).into_iter().filter(|(path, _)| name(path).starts_with("log-"));
    let (path, bytes) = logs.max_by_key(|(path, _)| name(path)).expect("there is a log");
    let content = bytes.iter().rposition(|byte| *byte != 0).expect("something was written") + 1;
    let lost = (0..200).map(|step| content * (400 - step) / 800).find(|from| {
        let mut left = bytes.clone();
        left[*from..].fill(0);
        fs::write(&path, left).unwrap();
        verify(dir).status.success()
    });
    lost.expect("a log whose end is missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_loss_of_the_last_writes_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, address) = (folder.path().join("store"), Address::free());
    let mut server = Server::start_command(serve_at(address, &dir, Durability::Sync));
    let recorder = Recorder::start(&[address.endpoint()], SEED, &options("planted"));
    recorder.answered(500).await;
    server.kill();
    let dead = recorder.now();
    lose_the_end_of_the_log(&dir);
    let _server = Server::start_command(serve_at(address, &dir, Durability::Sync));
    recorder.answered(300).await;
    let recording = recorder.finish().await;
    let violations = recording.judge().expect_err("answered writes are lost");
    println!("{violations}");
    let all_synced = Crash { synced: dead, dead };
    recording.judge_crash(all_synced).expect_err("writes are lost that were synced");
    let none_synced =
        recording.judge_crash(Crash { synced: 0, dead }).expect("only the last writes are lost");
    assert!(none_synced.cut > 0, "{none_synced}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_sync_that_does_nothing_is_found() {
    if !mounts() {
        return;
    }
    let (shim, address) = (Shim::build().unwrap(), Address::free());
    let mut disk = Disk::mount(96).unwrap();
    let dir = disk.path().join("store");
    let mut command = serve_at(address, &dir, Durability::Sync);
    shim.preload(&mut command);
    let mut server = Server::start_command(command);
    let recorder = Recorder::start(&[address.endpoint()], SEED, &options("planted"));
    recorder.answered(300).await;
    shim.skip();
    recorder.answered(300).await;
    server.kill();
    disk.cut_power().unwrap();
    shim.work();
    let _server = Server::start_command(serve_at(address, &dir, Durability::Sync));
    recorder.answered(300).await;
    recorder.finish().await.judge().expect_err("answered writes are lost");
}

#[tokio::test]
async fn after_a_restart_times_and_numbers_go_on_and_old_sessions_hold_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_command(serve(folder.path(), Durability::Sync));
    let client = server.client().await;
    let map = client.map("m").text().open().await.unwrap();
    let written = map.put("k", &"one".to_owned()).await.unwrap();
    let since = Instant::now();
    map.put("short", &"x".to_owned()).ttl(Duration::from_millis(300)).await.unwrap();
    map.put("long", &"x".to_owned()).ttl(Duration::from_secs(3)).await.unwrap();
    client.counter("hits").open().await.unwrap().increment(5).await.unwrap();
    let door = client.lock("door").open().await.unwrap();
    let token = door.acquire().await.unwrap();
    let term = client.election("boss").open().await.unwrap().enter("a").await.unwrap();
    assert_eq!(term.leader.as_deref(), Some("a"));
    server.kill();
    let token = token.token();
    // The time to live of `short` ends while no server runs.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let server = Server::start_command(serve(folder.path(), Durability::Sync));
    // A primitive that was created before is known without another Create.
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.listen())).unwrap();
    let mut raw = CounterClient::new(channel.connect().await.unwrap());
    let id = Some(PrimitiveId { name: "hits".to_owned() });
    assert_eq!(raw.get(counter::GetRequest { id }).await.unwrap().into_inner().value, 5);
    let client = server.client().await;
    let map = client.map("m").text().open().await.unwrap();
    assert_eq!(map.get("short").await.unwrap(), None, "it was overdue");
    assert!(map.get("long").await.unwrap().is_some());
    assert_eq!(map.get("k").await.unwrap().unwrap().version, written.version);
    let again = map.put("k", &"two".to_owned()).await.unwrap();
    assert!(again.version > written.version && again.previous.unwrap().version == written.version);
    let door = client.lock("door").open().await.unwrap();
    let guard = door.try_acquire().await.unwrap().expect("old sessions hold nothing");
    assert!(guard.token() > token);
    let now = client.election("boss").open().await.unwrap().enter("b").await.unwrap();
    assert!(now.leader.as_deref() == Some("b") && now.number > term.number, "{now:?}");
    // The time to live goes on and does not begin anew: an entry with the same one that is written now expires later.
    map.put("later", &"x".to_owned()).ttl(Duration::from_secs(3)).await.unwrap();
    loop {
        let entries = map.entries().await.unwrap().collect().await.unwrap();
        let has = |key: &str| entries.iter().any(|entry| entry.key == key);
        assert!(!has("long") || has("later"), "the time began anew");
        if !has("long") {
            break;
        }
        assert!(since.elapsed() < WAIT_TIMEOUT, "it does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
}
