// SPDX-License-Identifier: Apache-2.0

use super::streams::{Change, Event, Kind, Rule, Stream};
use super::*;
use atomix_conformance::Dice;

const STEPS: usize = 100_000;

fn fine<M: Model>(begin: M, calls: Vec<Call<M::Op, M::Answer>>) -> bool {
    match (History { begin, calls }).check(STEPS) {
        Verdict::Fine(_) => true,
        Verdict::Broken(_) => false,
        Verdict::Unknown(broken) => panic!("{broken}"),
    }
}

mod numbers {
    use super::number::{Answer, Op};
    use super::*;

    fn counter(calls: Vec<Call<Op, Answer>>) -> bool {
        fine(Number(Some(0)), calls)
    }

    #[test]
    fn a_stale_read_is_broken() {
        let add = Call::done(1, 0..10, Op::Add(1), Answer::Is(1));
        assert!(counter(vec![add.clone(), Call::done(2, 5..15, Op::Get, Answer::Is(0))]));
        assert!(!counter(vec![add, Call::done(2, 11..15, Op::Get, Answer::Is(0))]));
    }

    #[test]
    fn a_lost_call_may_be_applied_once_at_any_time_or_never() {
        let lost = Call::lost(1, 10, Op::Add(5));
        let read = |at: u64, number| Call::done(2, at..at + 1, Op::Get, Answer::Is(number));
        assert!(counter(vec![lost.clone(), read(20, 0), read(1000, 0)]));
        assert!(counter(vec![lost.clone(), read(20, 0), read(1000, 5)]));
        assert!(!counter(vec![lost.clone(), read(20, 5), read(1000, 0)]));
        assert!(!counter(vec![lost.clone(), read(20, 5), read(1000, 10)]));
        assert!(!counter(vec![lost, read(5, 5)]));
    }

    #[test]
    fn a_call_that_could_only_take_effect_in_time_did_not_later() {
        let lost = Call { ended: Some(50), ..Call::lost(1, 10, Op::Add(5)) };
        let read = |at: u64, number| Call::done(2, at..at + 1, Op::Get, Answer::Is(number));
        assert!(counter(vec![lost.clone(), read(20, 0), read(60, 5)]));
        assert!(!counter(vec![lost, read(60, 0), read(70, 5)]));
    }

    #[test]
    fn many_lost_calls_are_checked_fast() {
        let mut calls: Vec<_> = (0..60).map(|at| Call::lost(at, 0, Op::Add(1 << (at % 8)))).collect();
        let mut number = 0;
        for at in 0..2000u32 {
            let jump = if at % 100 == 99 { 1 << (at / 100 % 8) } else { 0 };
            number += jump + 1000;
            let at = u64::from(at);
            calls.push(Call::done(100, 10 * at + 1..10 * at + 15, Op::Add(1000), Answer::Is(number)));
        }
        assert!(counter(calls));
    }

    #[test]
    fn a_broken_history_names_the_stuck_call() {
        let calls = vec![
            Call::done(1, 0..10, Op::Set(7), Answer::Is(7)),
            Call::done(2, 2_000_000..3_000_000, Op::Get, Answer::Is(8)),
        ];
        let Verdict::Broken(broken) = (History { begin: Number(Some(0)), calls }).check(STEPS) else {
            panic!("a read of a value that no call wrote")
        };
        assert_eq!(broken.explained, (1, 2));
        assert!(broken.to_string().contains("[2.000..3.000 ms] client 2: Get = Is(8)"), "{broken}");
    }

    #[test]
    fn a_search_that_gives_up_is_not_fine() {
        let calls = vec![Call::done(1, 0..10, Op::Get, Answer::Is(0))];
        assert!(matches!(History { begin: Number(Some(0)), calls }.check(1), Verdict::Unknown(_)));
    }
}

#[test]
fn versions_of_a_cell_grow_and_are_reported_correctly() {
    use cell::{Answer, Op};
    let put = Call::done(1, 0..10, Op::Put(7, 0), Answer::Written(3, None));
    let then = |op, answer| fine(Cell::default(), vec![put.clone(), Call::done(2, 20..30, op, answer)]);
    assert!(then(Op::Get, Answer::Is(7, 3)));
    assert!(!then(Op::Get, Answer::Is(7, 4)));
    assert!(!then(Op::Get, Answer::Missing));
    assert!(then(Op::Put(8, 3), Answer::Written(4, Some((7, 3)))));
    assert!(!then(Op::Put(8, 3), Answer::Written(3, Some((7, 3)))));
    assert!(!then(Op::Put(8, 3), Answer::Written(4, None)));
    assert!(!then(Op::Put(8, 3), Answer::Conflict));
    assert!(then(Op::Put(8, 2), Answer::Conflict));
    assert!(!then(Op::Put(8, 2), Answer::Written(4, Some((7, 3)))));
    assert!(then(Op::Insert(8), Answer::Exists));
    assert!(!then(Op::Update(8, 0), Answer::Missing));
    assert!(then(Op::Remove(0), Answer::Is(7, 3)));
}

#[test]
fn an_entry_expires_in_time_and_not_before() {
    use cell::{Answer, Op};
    let put = Call::done(1, 0..10, Op::Put(7, 0), Answer::Written(3, None));
    let expire = Call::done(1, 1000..1110, Op::Expire(7), Answer::Done);
    let read = |at, answer| {
        fine(Cell::default(), vec![put.clone(), expire.clone(), Call::done(2, at, Op::Get, answer)])
    };
    assert!(read(900..950, Answer::Is(7, 3)));
    assert!(!read(900..950, Answer::Missing));
    assert!(read(1050..1060, Answer::Is(7, 3)));
    assert!(read(1050..1060, Answer::Missing));
    assert!(!read(1200..1210, Answer::Is(7, 3)));
}

mod locks {
    use super::lock::{Answer, Op};
    use super::*;

    fn lock(calls: Vec<Call<Op, Answer>>) -> bool {
        fine(Lock::default(), calls)
    }

    fn take(session: u32, at: u64, token: u64) -> Call<Op, Answer> {
        Call::done(session, at..at + 5, Op::Take(session), Answer::Token(token))
    }

    fn release(session: u32, at: u64, answer: Answer) -> Call<Op, Answer> {
        Call::done(session, at..at + 5, Op::Release(session), answer)
    }

    #[test]
    fn two_holders_are_broken() {
        assert!(lock(vec![take(1, 0, 1), release(1, 10, Answer::Done), take(2, 20, 2)]));
        assert!(!lock(vec![take(1, 0, 1), take(2, 20, 2), release(1, 30, Answer::Done)]));
        assert!(!lock(vec![take(1, 0, 1), take(2, 20, 2)]));
    }

    #[test]
    fn a_token_grows() {
        let calls = |token| vec![take(1, 0, 3), release(1, 10, Answer::Done), take(2, 20, token)];
        assert!(lock(calls(4)));
        assert!(!lock(calls(3)));
        assert!(!lock(calls(2)));
    }

    #[test]
    fn only_the_owner_unlocks() {
        assert!(!lock(vec![take(1, 0, 1), release(2, 10, Answer::Done)]));
        assert!(lock(vec![take(1, 0, 1), release(2, 10, Answer::NotHeld)]));
        assert!(!lock(vec![take(1, 0, 1), release(1, 10, Answer::NotHeld)]));
    }

    #[test]
    fn a_session_that_ended_loses_its_hold_sooner_or_later() {
        let end = Call::lost(1, 10, Op::End(1));
        assert!(lock(vec![take(1, 0, 1), end.clone(), take(2, 1000, 2)]));
        let token = Call::done(3, 500..510, Op::Token, Answer::Token(1));
        assert!(lock(vec![take(1, 0, 1), end.clone(), token.clone(), take(2, 1000, 2)]));
        assert!(!lock(vec![take(1, 0, 1), end, take(2, 100, 2), token]));
    }

    #[test]
    fn a_waiter_is_granted_a_free_lock() {
        let waits = |session, at: u64, until| Call::done(session, at..until, Op::Wait, Answer::Done);
        let history = |calls| History { begin: Lock::default(), calls };
        let held = vec![take(1, 0, 1), waits(2, 10, 1000), release(1, 1100, Answer::Done)];
        assert!(lock::forgotten(&history(held), 500).is_empty());
        let free = vec![take(1, 0, 1), waits(2, 10, 1000), release(1, 100, Answer::Done)];
        assert_eq!(lock::forgotten(&history(free), 500).len(), 1);
    }

    #[test]
    fn an_unknown_grant_is_given_back() {
        let lost = Call::lost(1, 0, Op::Take(1));
        let token = Call::done(3, 500..510, Op::Token, Answer::Token(7));
        assert!(lock(vec![lost.clone(), take(2, 100, 1)]));
        assert!(lock(vec![lost.clone(), token.clone(), take(2, 1000, 8)]));
        assert!(!lock(vec![lost, token, take(2, 1000, 7)]));
    }
}

#[test]
fn a_term_grows_by_one_with_each_leader() {
    use election::{Answer, Op};
    let call = |at: u64, op: Op, term, queue: &[&str]| {
        let queue = queue.iter().map(|name| (*name).to_owned()).collect();
        Call::done(1, at..at + 5, op, Answer { term, queue })
    };
    let enter = |at, name: &str, session, term, queue: &[&str]| {
        call(at, Op::Enter(name.to_owned(), session), term, queue)
    };
    let both = || vec![enter(0, "a", 1, 1, &["a"]), enter(10, "b", 2, 1, &["a", "b"])];
    let with = |more: Vec<_>| fine(Election::default(), both().into_iter().chain(more).collect());
    assert!(with(vec![call(20, Op::Withdraw("a".to_owned(), 1), 2, &["b"])]));
    assert!(!with(vec![call(20, Op::Withdraw("a".to_owned(), 1), 1, &["b"])]));
    assert!(!with(vec![call(20, Op::Withdraw("a".to_owned(), 2), 2, &["b"])]));
    assert!(with(vec![call(20, Op::Promote("b".to_owned()), 2, &["b", "a"])]));
    assert!(with(vec![Call::lost(1, 15, Op::End(1)), call(20, Op::Get, 2, &["b"])]));
    assert!(!with(vec![call(20, Op::Get, 2, &["b"])]));
}

#[test]
fn positions_are_given_once() {
    use index::{Answer, Op};
    let append = |at: u64, key, position| {
        Call::done(1, at..at + 5, Op::Append(key, key), Answer::Entry((key, key, position, position)))
    };
    let remove = Call::done(1, 20..25, Op::Remove(2), Answer::Entry((2, 2, 2, 2)));
    let calls = |position| vec![append(0, 1, 1), append(10, 2, 2), remove.clone(), append(30, 3, position)];
    assert!(fine(Index::default(), calls(3)));
    assert!(!fine(Index::default(), calls(2)));
}

#[test]
fn a_list_keeps_its_order() {
    use list::{Answer, Op};
    let calls = |items: &[u64]| {
        vec![
            Call::done(1, 0..5, Op::Append(1), Answer::Done),
            Call::done(1, 10..15, Op::Insert(0, 2), Answer::Done),
            Call::done(1, 20..25, Op::Insert(3, 3), Answer::Beyond),
            Call::done(1, 30..35, Op::Items, Answer::Items(items.to_vec())),
        ]
    };
    assert!(fine(List::default(), calls(&[2, 1])));
    assert!(!fine(List::default(), calls(&[1, 2])));
}

#[test]
fn a_lost_call_that_was_over_does_not_come_after_a_later_one() {
    use number::{Answer, Op};
    // Only as 0 -> 1 -> 3 -> 4, but the addition of 2 was over before the update could begin.
    let calls = |over| {
        vec![
            Call { ended: over, ..Call::lost(0, 0, Op::Add(2)) },
            Call::done(0, 9..31, Op::Add(1), Answer::Is(4)),
            Call::lost(0, 29, Op::Update(0, 1)),
        ]
    };
    assert!(fine(Number(Some(0)), calls(None)));
    assert!(fine(Number(Some(0)), calls(Some(30))));
    assert!(!fine(Number(Some(0)), calls(Some(11))));
}

/// Tries all orders of all calls, with all choices of the lost ones.
fn brute<M: Model>(state: &M, rest: &[Call<M::Op, M::Answer>]) -> bool {
    let over = rest.iter().filter(|call| call.answer.is_some()).filter_map(|call| call.ended).min();
    let Some(over) = over else { return true };
    (0..rest.len()).any(|at| {
        let mut rest = rest.to_vec();
        let next = rest.remove(at);
        // A lost call that was to take effect before this one begins did not.
        rest.retain(|other| other.answer.is_some() || other.ended.is_none_or(|ended| ended >= next.began));
        next.began <= over
            && state.step(&next.op, next.answer.as_ref()).is_some_and(|state| brute(&state, &rest))
    })
}

/// Makes a history that could have been, of which then perhaps one answer is another.
fn random<M: Model>(
    dice: &mut Dice,
    first: &M,
    draw: impl Fn(&mut Dice) -> M::Op,
    answers: impl Fn(&mut Dice) -> M::Answer,
) -> History<M> {
    let mut history = History::new(first.clone());
    let mut state = first.clone();
    for at in 0..=dice.roll(6) {
        let op = draw(dice);
        let (began, ended) = ((10 * at).saturating_sub(dice.roll(25)), 10 * at + dice.roll(25));
        // Some answer that is possible here, if one is found.
        let possible = (0..40).map(|_| answers(dice)).find(|answer| state.step(&op, Some(answer)).is_some());
        let Some(mut answer) = possible else { continue };
        let after = state.step(&op, Some(&answer)).expect("it was tried");
        if dice.roll(8) == 0 {
            answer = answers(dice);
        }
        if dice.roll(4) == 0 {
            let ended = (dice.roll(2) == 0).then_some(ended);
            history.calls.push(Call { client: 0, began, ended, op, answer: None });
            if dice.roll(2) == 0 {
                continue;
            }
        } else {
            history.calls.push(Call::done(0, began..ended, op, answer));
        }
        state = after;
    }
    history
}

fn agree<M: Model>(history: &History<M>, counts: &mut [usize; 2]) {
    let expected = brute(&history.begin, &history.calls);
    let verdict = history.check(STEPS);
    match &verdict {
        Verdict::Fine(order) if expected => {
            // The reported order is one.
            let step = |state: M, at: &usize| {
                let call = &history.calls[*at];
                state.step(&call.op, call.answer.as_ref()).expect("the order explains the answers")
            };
            order.iter().fold(history.begin.clone(), step);
        }
        Verdict::Broken(_) if !expected => {}
        Verdict::Fine(_) | Verdict::Broken(_) | Verdict::Unknown(_) => {
            panic!("brute force finds {expected}, the search {verdict:?}: {history:?}")
        }
    }
    counts[usize::from(expected)] += 1;
}

#[test]
fn the_search_agrees_with_brute_force() {
    let seed = atomix_env::Env::real().random();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut counts = [[0; 2]; 4];
    for _ in 0..4000 {
        let history = random(
            &mut dice,
            &Number(Some(0)),
            |dice| match dice.roll(3) {
                0 => number::Op::Get,
                1 => number::Op::Add(1 + i64::try_from(dice.roll(2)).unwrap()),
                _ => number::Op::Update(i64::try_from(dice.roll(3)).unwrap(), 1),
            },
            |dice| match dice.roll(4) {
                0 => number::Answer::Conflict,
                _ => number::Answer::Is(i64::try_from(dice.roll(5)).unwrap()),
            },
        );
        agree(&history, &mut counts[0]);
        let history = random(
            &mut dice,
            &Member(false),
            |dice| [member::Op::Has, member::Op::Add, member::Op::Remove][dice.index(3)].clone(),
            |dice| [member::Answer::Yes, member::Answer::No][dice.index(2)].clone(),
        );
        agree(&history, &mut counts[1]);
        let history = random(
            &mut dice,
            &Cell::default(),
            |dice| match dice.roll(5) {
                0 => cell::Op::Get,
                1 => cell::Op::Put(dice.roll(3), 0),
                2 => cell::Op::Put(dice.roll(3), dice.roll(3)),
                3 => cell::Op::Remove(dice.roll(2)),
                _ => cell::Op::Insert(dice.roll(3)),
            },
            |dice| match dice.roll(8) {
                0 => cell::Answer::Missing,
                1 => cell::Answer::Exists,
                2 => cell::Answer::Conflict,
                3 => cell::Answer::Inserted(1 + dice.roll(4)),
                4 => cell::Answer::Is(dice.roll(3), 1 + dice.roll(4)),
                5 => cell::Answer::Written(1 + dice.roll(4), None),
                _ => cell::Answer::Written(1 + dice.roll(4), Some((dice.roll(3), 1 + dice.roll(3)))),
            },
        );
        agree(&history, &mut counts[2]);
        let history = random(
            &mut dice,
            &Lock::default(),
            |dice| {
                let session = u32::try_from(dice.roll(3)).unwrap();
                match dice.roll(5) {
                    0 | 1 => lock::Op::Take(session),
                    2 => lock::Op::Release(session),
                    3 => lock::Op::Token,
                    _ => lock::Op::End(session),
                }
            },
            |dice| match dice.roll(5) {
                0 => lock::Answer::Free,
                1 => lock::Answer::NotHeld,
                2 => lock::Answer::Done,
                _ => lock::Answer::Token(1 + dice.roll(4)),
            },
        );
        agree(&history, &mut counts[3]);
    }
    // Both kinds of history were there.
    assert!(counts.iter().flatten().all(|count| *count > 200), "{counts:?}");
}

#[test]
fn a_record_is_the_same_after_a_file() {
    let mut history = History::new(Number(Some(0)));
    history.calls.push(Call::done(1, 0..10, number::Op::Add(1), number::Answer::Is(2)));
    let object = Object::Number(history);
    let folder = tempfile::tempdir().unwrap();
    object.write(&folder.path().join("h.json")).unwrap();
    let again = Object::read(&folder.path().join("h.json")).unwrap();
    assert_eq!(again, object);
    assert!(matches!(again.judge(STEPS), Judgement::Wrong(_)));
}

/// Two writes of a key and a removal, and a stream that shows them.
fn streams() -> WatchHistory {
    let change = |wrote, value, began: u64, ttl| Change {
        key: "k".to_owned(),
        wrote,
        value,
        began,
        ended: Some(began + 5),
        ttl,
    };
    let event = |at, kind, value, version, previous| Event {
        at,
        key: "k".to_owned(),
        kind,
        value,
        version,
        previous,
    };
    WatchHistory {
        changes: vec![
            change(true, 1, 10, None),
            change(true, 2, 20, None),
            change(false, 2, 30, None),
            change(true, 3, 40, Some(100)),
            change(true, 4, 200, None),
        ],
        streams: vec![Stream {
            client: 9,
            only: None,
            began: 0,
            settled: 0,
            events: vec![
                event(12, Kind::Inserted, 1, 1, None),
                event(22, Kind::Updated, 2, 2, Some((1, 1))),
                event(32, Kind::Removed, 2, 0, Some((2, 2))),
                event(42, Kind::Inserted, 3, 4, None),
                event(150, Kind::Expired, 3, 0, Some((3, 4))),
                event(203, Kind::Inserted, 4, 6, None),
            ],
        }],
        marked: true,
        late: Some(50),
    }
}

fn violating(spoil: impl Fn(&mut Vec<Event>)) -> Vec<Rule> {
    let mut streams = streams();
    spoil(&mut streams.streams[0].events);
    streams.check().into_iter().map(|violate| violate.rule).collect()
}

#[test]
fn a_stream_that_shows_all_in_order_is_fine() {
    assert_eq!(violating(|_| {}), []);
}

#[test]
fn each_violation_of_a_stream_is_named() {
    assert!(violating(|events| events.swap(0, 1)).contains(&Rule::Ordered));
    assert!(violating(|events| events.insert(1, events[0].clone())).contains(&Rule::Unique));
    assert!(violating(|events| drop(events.remove(1))).contains(&Rule::Reliable));
    assert!(violating(|events| drop(events.remove(2))).contains(&Rule::Reliable));
    assert_eq!(violating(|events| events[1].previous = None), [Rule::Previous]);
    assert_eq!(violating(|events| events[1].previous = Some((1, 7))), [Rule::Previous]);
    assert_eq!(violating(|events| events[1].kind = Kind::Inserted), [Rule::Create]);
    assert!(violating(|events| events[3].value = 8).contains(&Rule::True));
    assert_eq!(violating(|events| events[4].at = 60), [Rule::Early]);
    assert_eq!(violating(|events| events[4].at = 199), [Rule::Late]);
    let torn = |events: &mut Vec<Event>| {
        events[1].version = 1;
        events[1].previous = Some((1, 1));
        events[2].previous = Some((2, 1));
        events.push(Event { key: "l".to_owned(), kind: Kind::Removed, version: 4, ..events[2].clone() });
    };
    assert_eq!(violating(torn), [Rule::Atomic]);
    let mut streams = streams();
    streams.streams[0].only = Some("l".to_owned());
    assert!(streams.check().iter().any(|violate| violate.rule == Rule::Filter));
}
