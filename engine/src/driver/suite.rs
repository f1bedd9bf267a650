//! The contract of a driver as tests: every driver passes all of them, so that the simulated one cannot drift
//! from the kernel. A case gets a [`fixture::Fixture`], which makes a driver with sockets and peers of its kind.
//!
//! What a kernel does to those who do not expect it, and who keeps what follows. Cases named here are in
//! `suite/`; what is the worker's is kept by the simulator (`ringmill-protocols/tests/simulator`), by its
//! fault or by the break of the worker that it must catch.
//!
//! | | hazard | case of every driver | the worker's, in the simulator |
//! |---|---|---|---|
//! | 1 | no `more` means over, whatever the result | `what_is_over_stays_over`, `running_out_of_buffers_loses_nothing`, `a_flood_of_completions_loses_nothing` | `RecvOver`, `MoreIgnored` |
//! | 2 | a completion names a buffer that it did not take | `ends_and_failures_cost_no_buffer`; a lie is refused by `pool.rs`: `a_completion_cannot_claim_what_is_out` | `BufferForgotten` |
//! | 3 | closing cancels nothing; a cancel races with data | `a_cancel_that_races_data_loses_nothing`, `a_cancelled_receive_ends_once`, `a_cancel_of_nothing_is_silent`, `cancel_all_ends_both_directions`, `a_cancel_right_behind_a_send_is_not_lost`, `what_is_called_off_does_not_try_again` | `LateCancel`, `ClosedTooSoon`, `CancelForgotten` |
//! | 4 | completions for an earlier tenant of a slot | `tokens_tell_the_tenants_of_a_slot_apart` | `Stale`, `GenerationUnchecked` |
//! | 5 | operations in flight on one socket are unordered | none: a driver sends what it is given | `SendsOverlap` |
//! | 6 | sends are short, and may be stuck for ever | `sends_every_byte_in_order`, `nothing_is_on_its_way_to_who_has_reset`, `cancel_all_ends_both_directions`, `one_of_several_silent_sends_fails`, `a_short_silent_send_ends_the_wait` | `ShortSend`, `NeverReads`, `ShortSendDropped`, `StallUntimed` |
//! | 7 | memory outlives whoever asked for it | `a_driver_may_end_in_the_middle`, `a_flood_of_completions_loses_nothing`; `pool.rs`: `a_block_outlives_its_pool` | blocks are counted after each turn |
//! | 8 | EINTR, EBUSY, ETIME are not failures; a ring belongs to one thread | `a_signal_is_no_failure`, `a_wait_ends_at_its_time`; a ring is made on its thread (`engine/spawn.rs`) | `EarlyReturn`, `Interrupted`, `Again`, `QueueFull` |
//! | 9 | sleeping and waking race | `a_counter_is_reported_once_for_each_watch`; `bell.rs`: `no_ring_is_left_behind_unannounced` | `SpuriousWake`, `MailboxForgotten` |
//! | 10 | closing a listener resets its queue | `accepts_what_is_queued_and_no_more` | `Drained` |
//! | 11 | who does not receive does not see the end | `what_is_over_stays_over` | `StallUntimed`, `EofForgotten` |
//! | 12 | one client keeps the receive loop busy | `one_peer_cannot_have_the_turn_for_itself`, `a_limited_receive_brings_its_share_a_turn`, `a_shortage_of_buffers_is_shared` | `Drought`, `StarvedForgotten` |
//! | 13 | a reset that comes with bytes is not always told | `a_reset_right_behind_bytes_can_be_found`; it takes thousands to see one: `tests/hostile_load.rs` | none |

mod accepting;
mod connecting;
mod datagrams;
mod fixture;
mod hazards;
mod receiving;
mod sending;
mod silent;
mod sockets;
mod splice;
mod steps;
mod waiting;

use accepting::*;
use connecting::*;
use datagrams::*;
use hazards::*;
use receiving::*;
use sending::*;
use silent::*;
use splice::*;
use waiting::*;

macro_rules! suite {
    ($fixture:ty: $($case:ident)*) => {
        $(#[test]
        fn $case() {
            match <$fixture as crate::driver::suite::fixture::Fixture>::refusal() {
                // Past the capture of the test harness, so that nobody takes it for a test that ran.
                Some(reason) => drop(writeln!(std::io::stderr(), "{} did not run: {reason}", module_path!())),
                None => crate::driver::suite::$case::<$fixture>(),
            }
        })*
    };
}

macro_rules! all_cases {
    ($fixture:ty) => {
        use std::io::Write as _;
        suite! { $fixture:
            accepts_until_cancelled
            accepts_what_is_queued_and_no_more
            receives_in_order_to_the_end
            sends_every_byte_in_order
            sends_that_nobody_awaits_are_told_later
            one_of_several_silent_sends_fails
            a_short_silent_send_ends_the_wait
            a_cancelled_receive_ends_once
            a_cancel_right_behind_a_send_is_not_lost
            what_is_called_off_does_not_try_again
            running_out_of_buffers_loses_nothing
            cancel_all_ends_both_directions
            a_reset_ends_the_receive
            nothing_is_on_its_way_to_who_has_reset
            a_reset_right_behind_bytes_can_be_found
            a_shut_socket_still_receives
            closing_ends_the_connection
            the_last_bytes_leave_with_the_end
            a_wait_ends_at_its_time
            a_counter_is_reported_once_for_each_watch
            datagrams_come_and_go
            a_flow_has_its_peer_alone
            connects_and_talks
            connecting_to_nobody_is_refused
            a_cancelled_connect_ends_once
            a_flood_of_completions_loses_nothing
            what_is_over_stays_over
            ends_and_failures_cost_no_buffer
            a_cancel_that_races_data_loses_nothing
            a_cancel_of_nothing_is_silent
            tokens_tell_the_tenants_of_a_slot_apart
            a_driver_may_end_in_the_middle
            a_signal_is_no_failure
            one_peer_cannot_have_the_turn_for_itself
            a_limited_receive_brings_its_share_a_turn
            a_shortage_of_buffers_is_shared
            accepting_goes_on_after_an_end
            splices_every_byte_in_order_to_the_end
            a_cancelled_splice_gives_back_what_it_holds
            a_splice_ends_with_either_peer
            cancel_all_ends_a_splice
            without_a_pipe_nothing_is_lost
        }
    };
}

mod uring {
    use super::sockets::Sockets;
    use crate::driver::uring::{Uring, probe};

    pub(super) struct Make;

    impl super::sockets::Make for Make {
        type Driver = Uring;

        fn refusal() -> Option<String> {
            probe().err()
        }

        fn limits_receives() -> bool {
            probe().expect("asked before").recv_limit
        }

        fn make(buffers: u16, bytes: usize) -> Uring {
            Uring::new(probe().expect("asked before"), buffers, bytes).unwrap()
        }
    }

    all_cases!(Sockets<Make>);
    suite! { Sockets<Make>: a_refused_silent_send_ends_the_wait a_full_datagram_socket_tells_of_room }
}

mod poll {
    use super::sockets::Sockets;
    use crate::driver::poll::Poll;

    pub(super) struct Make;

    impl super::sockets::Make for Make {
        type Driver = Poll;

        fn make(buffers: u16, bytes: usize) -> Poll {
            Poll::new(buffers, bytes).unwrap()
        }
    }

    all_cases!(Sockets<Make>);
    suite! { Sockets<Make>: a_refused_silent_send_ends_the_wait a_full_datagram_socket_tells_of_room }
}

// It is made with the macros, so it stands behind them.
mod sim;
