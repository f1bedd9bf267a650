//! What is handed on to the session above a layer, what the layer is told of it, and how it ends.

use super::*;
use crate::event::Errno;
use crate::seam::layer::{Layer, Notice, Origin, Reclaim};
use crate::session::outlet::{Last, Wish};
use crate::session::service::{Service, Typed};
use crate::session::upper::Upper;

/// Notes its calls, and does the same in each.
struct Recorder {
    calls: Vec<String>,
    act: fn(&mut Io<'_>) -> Step,
}

impl Layer for Recorder {
    type Session = ();

    fn open(&mut self, _: Origin, _: &mut Io<'_>) {}

    fn call(&mut self, (): &mut (), call: Call<'_>, io: &mut Io<'_>) -> Step {
        self.calls.push(format!("{call:?}"));
        (self.act)(io)
    }

    fn closed(&mut self, (): (), reason: CloseReason, _: &mut Reclaim<'_>) {
        self.calls.push(format!("{reason:?}"));
        assert!(reason != CloseReason::Stopped, "on purpose");
    }

    fn notice(&mut self, notice: Notice) {
        self.calls.push(format!("{notice:?}"));
        assert!(!matches!(notice, Notice::Tick(Tick(0))), "on purpose");
    }
}

/// A recorder above the stand's duplex.
struct Tower {
    stand: Stand,
    recorder: Recorder,
    upper: Upper<Recorder>,
}

impl Tower {
    fn new(act: fn(&mut Io<'_>) -> Step) -> Tower {
        let (mut stand, mut recorder) = (Stand::new(), Recorder { calls: Vec::new(), act });
        let mut upper = None;
        stand.with(|io, _| {
            upper = Some(Upper::open(&mut recorder, Origin::Accepted, io));
            None
        });
        Tower { stand, recorder, upper: upper.expect("the stand is open") }
    }

    fn call(&mut self, call: Call<'_>) {
        let Tower { stand, recorder, upper } = self;
        stand.with(|io, _| {
            upper.call(recorder, call, io);
            None
        });
    }

    /// What the layer wants of the one below.
    fn step(&mut self) -> Step {
        let (upper, mut step) = (&mut self.upper, None);
        self.stand.with(|io, _| {
            step = Some(upper.step(7, io));
            None
        });
        step.expect("the stand is open")
    }
}

fn go_on(_: &mut Io<'_>) -> Step {
    Step::next(Next::Continue)
}

#[test]
fn only_a_timeout_of_its_own_is_handed_on() {
    for (now, calls) in [(4, vec![]), (5, vec!["Timeout".to_owned()]), (6, vec!["Timeout".to_owned()])] {
        let mut tower = Tower::new(|io| {
            io.set_deadline(Some(Tick(5)));
            Step::next(Next::Continue)
        });
        tower.call(Call::Wake);
        (tower.recorder.calls, tower.recorder.act) = (Vec::new(), go_on);
        tower.stand.shared.now = Tick(now);
        tower.call(Call::Timeout);
        assert_eq!(tower.recorder.calls, calls, "{now}");
        tower.step();
        let deadline = if calls.is_empty() { Tick(5) } else { Tick::NEVER };
        assert_eq!(tower.stand.duplex.deadline, deadline, "{now}");
    }
}

#[test]
fn only_a_session_at_rest_that_has_nothing_begun_is_asked_to_go() {
    let check = |act: fn(&mut Io<'_>) -> Step, input: &mut [u8], expected: &[&str]| {
        let mut tower = Tower::new(act);
        tower.call(Call::Data(input));
        (tower.recorder.calls, tower.recorder.act) = (Vec::new(), go_on);
        tower.call(Call::Shed);
        assert_eq!(tower.recorder.calls, expected);
    };
    check(|_| Step::consumed(1), &mut [1], &["Shed"]);
    check(|_| Step::consumed(0), &mut [1], &[]);
    check(|_| Step::pause(1), &mut [1], &[]);
    check(
        |io| {
            io.write(b"x");
            Step::consumed(1)
        },
        &mut [1],
        &[],
    );
}

#[test]
fn a_layer_is_told_what_the_session_above_wants() {
    let check = |act: fn(&mut Io<'_>) -> Step, next, wish| {
        let mut tower = Tower::new(act);
        tower.call(Call::Data(&mut [1]));
        assert_eq!(tower.step(), Step { consumed: 7, need: 0, next });
        assert_eq!(tower.stand.duplex.outlet.wish, wish);
    };
    check(|_| Step::consumed(1), Next::Continue, Wish::None);
    check(|_| Step::pause(1), Next::Pause, Wish::None);
    check(
        |io| {
            io.write(&[0; HIGH]);
            Step::consumed(1)
        },
        Next::Pause,
        Wish::Drained,
    );
    check(
        |io| {
            io.write(&[0; LOW + 1]);
            io.notify_drained();
            Step::consumed(1)
        },
        Next::Continue,
        Wish::Drained,
    );
    check(
        |io| {
            io.write(&[0]);
            io.notify_sent();
            Step::consumed(1)
        },
        Next::Continue,
        Wish::Sent,
    );
}

#[test]
fn the_end_of_the_session_above() {
    let check = |act: fn(&mut Io<'_>) -> Step, reason: &str, has_end, next, panics| {
        let mut tower = Tower::new(act);
        assert!(tower.upper.is_open() && !tower.upper.take_end());
        tower.call(Call::Wake);
        assert_eq!(tower.recorder.calls, ["Wake", reason]);
        assert!(!tower.upper.is_open());
        assert_eq!(tower.upper.take_output().map(|output| output.len()), Some(4), "it may still be sent");
        assert!(tower.upper.take_output().is_none());
        assert_eq!(tower.upper.take_end(), has_end);
        assert!(!tower.upper.take_end(), "once");
        assert_eq!(tower.step().next, next);
        assert_eq!(tower.stand.counters().panics, panics);
        tower.call(Call::Wake);
        assert_eq!(tower.recorder.calls.len(), 2, "nobody calls it any more");
    };
    fn write(io: &mut Io<'_>) {
        io.write(b"last");
    }
    let close = |io: &mut Io<'_>| {
        write(io);
        Step::next(Next::Close)
    };
    let abort = |io: &mut Io<'_>| {
        write(io);
        Step::next(Next::Abort)
    };
    let break_a_rule = |io: &mut Io<'_>| {
        write(io);
        Step::consumed(1)
    };
    check(close, "Finished", true, Next::Close, 0);
    check(abort, "Aborted", false, Next::Abort, 0);
    check(break_a_rule, "Panicked", false, Next::Abort, 1);
}

#[test]
fn the_session_above_ends_its_output_and_is_called_on() {
    let check = |act: fn(&mut Io<'_>) -> Step, next, then: fn(&mut Io<'_>) -> Step, ends_again, last| {
        let mut tower = Tower::new(act);
        tower.call(Call::Data(&mut [1]));
        assert!(tower.upper.is_open());
        assert_eq!(tower.upper.take_output().map(|output| output.len()), Some(4));
        assert_eq!(tower.stand.duplex.outlet.last, Last::Open, "the layer has an end of its own to write");
        assert!(tower.upper.take_end());
        assert!(!tower.upper.take_end(), "once");
        assert_eq!(tower.step(), Step { consumed: 7, need: 0, next });
        assert_eq!(tower.stand.duplex.outlet.last, Last::Written, "below it ends as well");
        (tower.recorder.calls, tower.recorder.act) = (Vec::new(), then);
        tower.call(Call::Wake);
        tower.call(Call::Data(&mut [2]));
        assert_eq!(tower.recorder.calls[0], "Wake");
        assert!(!tower.upper.take_end(), "it has ended");
        assert_eq!((tower.upper.is_open(), tower.step().next), (ends_again == Next::Continue, ends_again));
        assert_eq!(tower.stand.duplex.outlet.last, last);
    };
    fn end(io: &mut Io<'_>) {
        io.write(b"last");
        io.end_output();
    }
    let reads_on = |io: &mut Io<'_>| {
        end(io);
        Step::consumed(1)
    };
    let pauses = |io: &mut Io<'_>| {
        end(io);
        Step::pause(1)
    };
    check(reads_on, Next::Continue, go_on, Next::Continue, Last::Written);
    check(pauses, Next::Pause, go_on, Next::Continue, Last::Written);
    check(reads_on, Next::Continue, |_| Step::close(), Next::Close, Last::Written);
    check(reads_on, Next::Continue, |_| Step::abort(), Next::Abort, Last::Written);
}

/// However its calls were cut: whoever ends its output and breaks off in one call has the end, and then the reset.
#[test]
fn a_session_above_that_breaks_off_behind_its_last_has_both() {
    let mut tower = Tower::new(|io| {
        io.end_output();
        Step::abort()
    });
    tower.call(Call::Wake);
    assert!(tower.upper.take_end());
    assert_eq!(tower.step().next, Next::Abort);
    assert_eq!(tower.stand.duplex.outlet.last, Last::Written);
}

#[test]
fn a_connection_that_is_over_closes_the_session_above() {
    let check = |reason, panics| {
        let mut tower = Tower::new(|io| {
            io.write(&[0; 100]);
            Step::next(Next::Continue)
        });
        tower.call(Call::Wake);
        let Tower { mut stand, mut recorder, upper } = tower;
        upper.close(&mut recorder, reason, &mut Reclaim(&mut stand.shared));
        assert_eq!(recorder.calls.last(), Some(&format!("{reason:?}")));
        assert!(stand.shared.output().buffer().capacity() >= 100, "what it wrote is used again");
        assert_eq!(stand.counters().panics, panics);
    };
    check(CloseReason::Failed(Errno::EPIPE), 0);
    check(CloseReason::Stopped, 1);
}

#[test]
fn a_service_hears_of_notices_and_its_panics_end_there() {
    let mut service = Typed::new(Recorder { calls: Vec::new(), act: go_on });
    assert!(service.notice(Notice::Tick(Tick(1))).is_ok());
    assert!(service.notice(Notice::Tick(Tick(0))).is_err());
}

/// Its sessions are told apart, and say in the end which they were.
struct Numbered {
    opened: u32,
}

impl Layer for Numbered {
    type Session = u32;

    fn open(&mut self, _: Origin, _: &mut Io<'_>) -> u32 {
        self.opened += 1;
        self.opened
    }

    fn call(&mut self, session: &mut u32, _: Call<'_>, io: &mut Io<'_>) -> Step {
        io.write(&session.to_be_bytes());
        Step::next(Next::Continue)
    }

    fn closed(&mut self, _: u32, _: CloseReason, _: &mut Reclaim<'_>) {
        panic!("on purpose");
    }

    fn notice(&mut self, _: Notice) {}
}

#[test]
fn a_service_keeps_its_sessions_apart() {
    let mut stand = Stand::new();
    let mut service = Typed::new(Numbered { opened: 0 });
    let mut sessions = Vec::new();
    stand.with(|io, _| {
        for _ in 0..3 {
            sessions.push(service.open(Origin::Accepted, io).ok()?);
        }
        None
    });
    assert_eq!(sessions, [0, 1, 2]);
    for session in [2, 0, 1] {
        stand.with(|io, _| {
            assert!(service.call(session, Call::Wake, io).is_ok());
            None
        });
    }
    let output = stand.duplex.outlet.pending.take().expect("they wrote");
    assert_eq!(output.pieces().flatten().copied().collect::<Vec<u8>>(), [0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2]);
    for session in [1, 2, 0] {
        assert!(service.close(session, CloseReason::Aborted, &mut stand.shared).is_err());
    }
    // Places are used again.
    stand.with(|io, _| {
        assert!(service.open(Origin::Accepted, io).is_ok_and(|session| session < 3));
        None
    });
}

#[test]
fn one_of_several_sessions_counts_its_own_output_alone() {
    for (is_apart, shown) in [(false, 1), (true, 2)] {
        let mut tower = Tower::new(|io| {
            io.write(b"xy");
            Step::consumed(1)
        });
        if is_apart {
            let Tower { stand, recorder, upper } = tower;
            tower = Tower { stand, recorder, upper: upper.apart() };
        }
        tower.stand.with(|io, _| {
            io.write(&vec![0; io.room_bytes()]);
            None
        });
        for _ in 0..2 {
            tower.call(Call::Data(&mut [b'a']));
        }
        let calls = tower.recorder.calls.iter().filter(|call| call.starts_with("Data")).count();
        assert_eq!((calls, tower.upper.queued_bytes()), (shown, 2 * shown), "{:?}", tower.recorder.calls);
    }
}
