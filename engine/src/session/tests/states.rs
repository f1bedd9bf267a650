//! What a duplex answers in each state, at each limit, and when its session is over.

use super::*;
use crate::session::outlet::{Last, Wish};
use crate::session::unread::Unread;

/// What an open session's duplex answers: flows, wants input (one byte may be kept), is at rest, may have calls due, takes a byte
/// in place.
fn answers(change: impl FnOnce(&mut Duplex)) -> [bool; 5] {
    let marks = Stand::new().shared.marks;
    let mut duplex = Duplex::new();
    change(&mut duplex);
    [
        duplex.is_flowing(),
        duplex.wants_input(1),
        duplex.is_at_rest(),
        duplex.may_have_calls_due(0, &marks),
        duplex.takes_in_place(1),
    ]
}

fn kept(is_due: bool) -> Option<Box<Unread>> {
    let mut kept = Unread::default();
    kept.append(b"k");
    kept.is_due = is_due;
    Some(Box::new(kept))
}

#[test]
fn each_thing_that_is_out_of_the_ordinary_changes_its_answers() {
    const YES: bool = true;
    const NO: bool = false;
    let check = |name: &str, change: fn(&mut Duplex), expected: [bool; 5]| {
        assert_eq!(answers(change), expected, "{name}");
    };
    check("nothing", |_| {}, [YES, YES, YES, NO, YES]);
    check("it is over", |duplex| duplex.phase = Phase::Draining, [NO, YES, NO, NO, YES]);
    check("its peer ended", |duplex| duplex.inlet.end = End::Arrived, [NO, YES, YES, YES, YES]);
    check("its peer will end", |duplex| duplex.inlet.news = News::Gone, [YES, YES, YES, YES, YES]);
    check("and it knows", |duplex| duplex.inlet.end = End::Told, [NO, YES, YES, YES, YES]);
    for reading in [Reading::Paused, Reading::PausedForAWhile] {
        assert_eq!(answers(|duplex| duplex.inlet.reading = reading), [NO, YES, NO, NO, NO], "{reading:?}");
        let full = |duplex: &mut Duplex| {
            duplex.inlet.reading = reading;
            duplex.inlet.kept = kept(false);
        };
        assert_eq!(answers(full), [NO, NO, NO, NO, NO], "{reading:?}, and as much is kept as may be");
    }
    check("a start is kept", |duplex| duplex.inlet.kept = kept(false), [YES, YES, YES, NO, NO]);
    check("something kept is due", |duplex| duplex.inlet.kept = kept(true), [YES, YES, NO, YES, NO]);
    check("output is high", |duplex| duplex.outlet.level = Level::High, [NO, NO, NO, YES, NO]);
    check("it wishes for room", |duplex| duplex.outlet.wish = Wish::Drained, [YES, YES, NO, YES, YES]);
    check("it wishes that all is sent", |duplex| duplex.outlet.wish = Wish::Sent, [YES, YES, NO, YES, YES]);
    check("it has ended its output", |duplex| duplex.outlet.last = Last::Written, [YES, YES, NO, NO, YES]);
    check("and its peer knows", |duplex| duplex.outlet.last = Last::Told, [YES, YES, YES, NO, YES]);
    check("it wrote", |duplex| duplex.outlet.pending = Some(Box::default()), [YES, YES, NO, NO, YES]);
    check("it needs two bytes", |duplex| duplex.inlet.need_bytes = 2, [YES, YES, YES, NO, NO]);
}

#[test]
fn limits_are_what_may_be_reached() {
    let marks = Stand::new().shared.marks;
    let mut duplex = Duplex::new();
    for (queued, may) in [(HIGH - 1, false), (HIGH, true), (HIGH + 1, true)] {
        assert_eq!(duplex.may_have_calls_due(queued, &marks), may, "{queued}");
    }
    duplex.inlet.need_bytes = 2;
    assert!(duplex.takes_in_place(2) && duplex.takes_in_place(3));

    use Level::{High, Low};
    for (level, queued, after) in [
        (Low, HIGH - 1, Low),
        (Low, HIGH, High),
        (High, LOW + 1, High),
        (High, HIGH, High),
        (High, LOW, Low),
        (High, LOW - 1, Low),
    ] {
        assert_eq!(level.after(queued, &marks), after, "{level:?} {queued}");
    }

    let mut stand = Stand::new();
    stand.with(|io, puppet| {
        io.write(&[0; 1000]);
        io.settle(puppet)
    });
    assert_eq!((stand.reason, stand.duplex.outlet.level), (None, Level::High), "just not too much");

    let mut stand = Stand::new();
    stand.puppet.need = Some(1024);
    stand.happen(Event::One);
    assert_eq!(stand.reason, None, "just not too much to need");

    let mut stand = Stand::new();
    stand.with(|io, _| io.receive(&mut Glutton, &mut [0; 1024]));
    assert_eq!(stand.reason, None, "just not too much to leave");
    stand.with(|io, _| io.receive(&mut Glutton, &mut [0]));
    assert_eq!(stand.reason, Some(CloseReason::InputOverflow));
    assert_eq!(stand.counters().overflows, 1);
}

#[test]
fn what_is_left_is_shown_again_at_once_where_the_session_could_not_see_it_so() {
    let marks = Stand::new().shared.marks;
    let check = |consumed, need, rest: usize, reading, queued, is_due| {
        let mut duplex = Duplex::new();
        (duplex.inlet.kept, duplex.inlet.reading) = (kept(false), reading);
        let unread = duplex.inlet.kept.as_mut().expect("just kept");
        unread.append(&vec![b'k'; rest - 1]);
        let step = Step { consumed, need, next: Next::Continue };
        assert_eq!(duplex.leave(step, queued, &marks, false), None);
        assert_eq!(duplex.inlet.is_due(), is_due, "{step:?} {rest} {reading:?} {queued}");
    };
    // It asked for what is there already; but not for what it has just seen.
    check(1, 2, 3, Reading::Flowing, 0, true);
    check(1, 2, 2, Reading::Flowing, 0, true);
    check(1, 1, 1, Reading::Flowing, 0, true);
    check(1, 3, 2, Reading::Flowing, 0, false);
    check(0, 2, 3, Reading::Flowing, 0, false);
    // It left the start of something, and said nothing of how long that is.
    check(1, 0, 2, Reading::Flowing, 0, false);
    // It paused, or is full: it has not looked at all.
    check(0, 0, 2, Reading::Paused, 0, true);
    check(0, 0, 2, Reading::PausedForAWhile, 0, true);
    check(0, 0, 2, Reading::Flowing, HIGH, true);
    check(0, 0, 2, Reading::Flowing, HIGH - 1, false);
}

#[test]
fn nothing_is_kept_once_all_is_consumed() {
    let mut stand = Stand::new();
    for event in [Event::Need, Event::One, Event::Three] {
        stand.happen(event);
    }
    assert_eq!(stand.puppet.consumed.len(), 4);
    assert!(stand.duplex.inlet.kept.is_none(), "the next bytes are shown where they are");
}

#[test]
fn who_leaves_input_while_memory_is_used_up_is_given_up_and_counted() {
    let mut stand = Stand::new();
    stand.shared.memory.change(0, Config::default().memory_bytes_max);
    stand.with(|io, _| io.receive(&mut Glutton, &mut [0]));
    assert_eq!(stand.reason, Some(CloseReason::MemoryExhausted));
    assert_eq!((stand.counters().memory_refused, stand.counters().overflows), (1, 0));
}

#[test]
fn a_session_that_is_over_is_not_called_whatever_was_due() {
    let Stand { mut duplex, mut puppet, mut link, mut shared, .. } = Stand::new();
    duplex.inlet.end = End::Arrived;
    duplex.finish(CloseReason::Finished);
    let below =
        Below { index: 0, link: &mut link, shared: &mut shared, names: &Kernel::default(), queued_bytes: 0 };
    let reason = Io { duplex: &mut duplex, below }.settle(&mut puppet);
    assert_eq!((reason, puppet.calls), (None, 0));
}

#[test]
fn a_session_is_told_when_all_is_sent_and_not_before() {
    let mut stand = Stand::new();
    stand.with(|io, puppet| {
        io.write(b"x");
        io.notify_sent();
        io.settle(puppet)
    });
    assert_eq!((stand.puppet.told_drained, stand.duplex.outlet.wish), (0, Wish::Sent));
    stand.duplex.outlet.pending = None;
    stand.with(|io, puppet| io.settle(puppet));
    assert_eq!((stand.puppet.told_drained, stand.duplex.outlet.wish), (1, Wish::None));
    // Who wants to be told of room is told of that, which comes first.
    stand.with(|io, puppet| {
        io.notify_drained();
        io.notify_sent();
        io.write(b"x");
        io.settle(puppet)
    });
    assert_eq!((stand.puppet.told_drained, stand.duplex.outlet.wish), (2, Wish::None));
}

#[test]
fn a_session_that_is_over_leaves_only_output() {
    let mut stand = Stand::new();
    stand.with(|io, _| {
        io.write(b"last");
        io.notify_drained();
        io.set_deadline(Some(Tick(7)));
        io.receive(&mut Glutton, &mut [0; 3])
    });
    stand.duplex.leave_session(&mut stand.shared);
    let duplex = &stand.duplex;
    assert!(duplex.inlet.kept.is_none());
    assert_eq!((duplex.deadline, duplex.outlet.wish), (Tick::NEVER, Wish::None));
    assert_eq!(duplex.outlet.pending_bytes(), 4);
}

#[test]
fn a_peer_may_send_until_it_ended() {
    let mut inlet = Duplex::new().inlet;
    for (end, expected) in [(End::Open, true), (End::Arrived, false), (End::Told, false)] {
        inlet.end = end;
        assert_eq!(inlet.is_open(), expected, "{end:?}");
    }
}

#[test]
fn an_end_follows_the_output_of_a_session_that_is_over_or_reads_on() {
    let check = |phase, last, expected| {
        let mut duplex = Duplex::new();
        (duplex.phase, duplex.outlet.last) = (phase, last);
        assert_eq!(duplex.is_ending(), expected, "{phase:?} {last:?}");
    };
    for last in [Last::Open, Last::Written, Last::Told] {
        check(Phase::Open, last, last == Last::Written);
        check(Phase::Draining, last, true);
    }
}

#[test]
fn output_ends_once() {
    let mut stand = Stand::new();
    for told in [false, true] {
        stand.with(|io, _| {
            io.end_output();
            assert!(io.has_ended_output());
            None
        });
        let expected = if told { Last::Told } else { Last::Written };
        assert_eq!(stand.duplex.outlet.last, expected);
        stand.duplex.outlet.last = Last::Told;
    }
}
