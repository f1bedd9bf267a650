//! Hubs of several workers on one thread, step by step; at the end a model that knows nothing of logs or inboxes.

mod carried;

use super::*;
use proptest::prelude::*;
use ringmill_engine::Tick;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

fn small() -> TopicOptions {
    TopicOptions {
        messages_max: 4,
        bytes_max: 1 << 20,
        inbox_messages_max: 3,
        message_bytes_max: 1000,
        topics_max: 3,
        ..TopicOptions::default()
    }
}

fn alone(options: TopicOptions) -> Hub {
    Topics::new(options).hub_of(0, 1)
}

fn how(start: Start, when_slow: SlowPolicy) -> Subscribe {
    Subscribe { start, when_slow }
}

/// What a subscriber reads, as text.
#[track_caller]
fn expect(subscription: &mut Subscription, expected: &[&str]) {
    for expected in expected {
        assert_eq!(shown(&subscription.next()), *expected);
    }
    assert_eq!(shown(&subscription.next()), "empty");
}

fn shown(next: &Next) -> String {
    match next {
        Next::Frame(frame) => String::from_utf8_lossy(frame.as_bytes()).into_owned(),
        Next::Skipped(count) => format!("skipped {count:?}"),
        Next::Lagged => "lagged".to_owned(),
        Next::Empty => "empty".to_owned(),
    }
}

#[test]
fn who_subscribes_gets_what_follows() {
    let hub = alone(small());
    assert_eq!(hub.publish("a", "before"), Published::Done { offset: Some(0) });
    let mut now = hub.subscribe("a", Subscribe::default()).unwrap();
    let mut last = hub.subscribe("a", how(Start::Last, SlowPolicy::Close)).unwrap();
    assert_eq!(hub.publish("a", "one"), Published::Done { offset: Some(1) });
    hub.publish("b", "elsewhere");
    expect(&mut now, &["one"]);
    expect(&mut last, &["before", "one"]);
    assert_eq!(hub.subscribers("a"), 2);
    drop(now);
    assert_eq!((hub.subscribers("a"), hub.subscribers("b")), (1, 0));
    let counters = hub.topics().counters();
    assert_eq!((counters.published, counters.delivered, counters.subscribers, counters.topics), (3, 3, 1, 2));
}

#[test]
fn who_comes_back_goes_on_where_it_was_or_is_told() {
    let hub = alone(small());
    for text in ["0", "1", "2", "3", "4", "5"] {
        hub.publish("a", text);
    }
    let epoch = hub.0.shared.epoch;
    let check = |epoch, offset, expected: &[&str]| {
        let place = Place { epoch, offset };
        let mut back = hub.subscribe("a", how(Start::After(place), SlowPolicy::Close)).unwrap();
        expect(&mut back, expected);
    };
    check(epoch, 5, &[]);
    check(epoch, 3, &["4", "5"]);
    check(epoch, 1, &["2", "3", "4", "5"]);
    check(epoch, 0, &["skipped None"]);
    check(epoch, 6, &["skipped None"]);
    check(epoch, u64::MAX, &["skipped None"]);
    check(epoch ^ 1, 3, &["skipped None"]);
    assert_eq!(hub.topics().counters().resets, 4);
}

#[test]
fn who_leaves_before_it_has_read_goes_on_where_it_was() {
    let hub = alone(small());
    #[track_caller]
    fn check(hub: &Hub, left: Subscription, expected: &[&str]) {
        let place = left.place().expect("it is known here");
        let place = place.to_string().parse().expect("it is written as others are");
        drop(left);
        hub.publish("a", "next");
        let mut back = hub.subscribe("a", how(Start::After(place), SlowPolicy::Skip)).unwrap();
        assert_eq!(back.place(), Some(place));
        expect(&mut back, expected);
    }
    let subscribe = |start| hub.subscribe("a", how(start, SlowPolicy::Skip)).unwrap();
    check(&hub, subscribe(Start::Now), &["next"]);
    check(&hub, subscribe(Start::Oldest), &["next", "next"]);
    check(&hub, subscribe(Start::Now), &["next"]);
    check(&hub, subscribe(Start::Last), &["next", "next"]);
    let mut lost = subscribe(Start::After(Place { epoch: 1, offset: 1 }));
    assert_eq!(lost.place(), None);
    expect(&mut lost, &["skipped None"]);
    check(&hub, lost, &["next"]);
}

#[test]
fn a_place_is_known_when_the_home_has_said_it() {
    let (_, [home, mirror], [topic, _]) = two();
    let subscription = mirror.subscribe(&topic, Subscribe::default()).unwrap();
    assert_eq!(subscription.place(), None);
    home.look();
    mirror.look();
    assert_eq!(subscription.place(), Some(Place { epoch: home.0.shared.epoch, offset: u64::MAX }));
    home.publish(&topic, "one");
    let place = subscription.place().unwrap();
    let mut back = home.subscribe(&topic, how(Start::After(place), SlowPolicy::Close)).unwrap();
    expect(&mut back, &["one"]);
}

#[test]
fn who_is_slow_is_told_or_closed() {
    let hub = alone(small());
    let mut all = [SlowPolicy::Close, SlowPolicy::Skip, SlowPolicy::Latest]
        .map(|policy| hub.subscribe("a", how(Start::Now, policy)).unwrap());
    for number in 0..7 {
        hub.publish("a", number.to_string());
    }
    assert_eq!(shown(&all[0].next()), "lagged");
    assert_eq!(shown(&all[0].next()), "lagged");
    expect(&mut all[1], &["skipped Some(3)", "3", "4", "5", "6"]);
    expect(&mut all[2], &["skipped Some(6)", "6"]);
    let counters = hub.topics().counters();
    assert_eq!((counters.skipped, counters.slow_closed), (9, 2));
}

#[test]
fn limits() {
    let hub = alone(TopicOptions { worker_bytes_max: 2000, bytes_max: 1100, ..small() });
    assert_eq!(hub.publish("a b", "x"), Published::NoTopic);
    assert!(hub.subscribe("", Subscribe::default()).is_none());
    assert_eq!(hub.publish("a", "x".repeat(1001)), Published::TooLarge);
    for topic in ["a", "a", "b", "c"] {
        assert!(matches!(hub.publish(topic, "x".repeat(900)), Published::Done { .. }));
        assert!(hub.0.core.borrow().kept().2 <= 2000);
    }
    // The older one of the two that went to "a" is over its limit, the other one over everybody's, and it was forgotten.
    assert_eq!(hub.0.core.borrow().kept(), (1, 1, 1060));
    hub.publish("a", "x");
    hub.publish("b", "x");
    // There are "a", "b" and "c" again; whoever names another one, to publish or to subscribe, is refused.
    let _c = hub.subscribe("c", Subscribe::default()).unwrap();
    assert!(hub.subscribe("d", Subscribe::default()).is_none());
    assert_eq!(hub.publish("d", "x"), Published::Busy);
    assert_eq!(hub.topics().counters().busy, 2);
}

#[test]
fn what_is_old_goes_and_an_offset_never_comes_twice() {
    let check = |keeps_last| {
        let hub = alone(TopicOptions { age_max: Duration::from_secs(10), keeps_last, ..small() });
        hub.publish("a", "0");
        hub.publish("a", "1");
        let secs = |secs: u64| Tick(secs * 1_000_000_000);
        hub.tick(secs(100));
        hub.tick(secs(109));
        assert_eq!(hub.0.core.borrow().kept().1, 2);
        hub.publish("a", "2");
        hub.tick(secs(110));
        assert_eq!(hub.0.core.borrow().kept().1, 1);
        hub.tick(secs(120));
        let left = usize::from(keeps_last);
        assert_eq!((hub.0.core.borrow().kept().0, hub.0.core.borrow().kept().1), (left, left));
        assert_eq!(hub.publish("a", "3"), Published::Done { offset: Some(3) });
        assert!(hub.publish("b", "0") == Published::Done { offset: Some(if keeps_last { 0 } else { 3 }) });
    };
    check(false);
    check(true);
}

#[test]
fn places_of_those_who_left_do_not_add_up() {
    let hub = alone(small());
    let _stays = hub.subscribe("a", Subscribe::default()).unwrap();
    for _ in 0..10_000 {
        let mut visitor = hub.subscribe("a", Subscribe::default()).unwrap();
        expect(&mut visitor, &[]);
    }
    assert!(hub.0.core.borrow().resting(0) < 100);
}

/// Hubs of two workers, and names of topics whose homes they are.
fn two() -> (Topics, [Hub; 2], [String; 2]) {
    let topics = Topics::with_seed(small(), 7);
    let hubs = [0, 1].map(|worker| topics.hub_of(worker, 2));
    let at_home = |worker: usize| {
        let names = (0..).map(|number| format!("topic{number}"));
        names.into_iter().find(|name| topics.0.home_of(name) == worker).expect("there are many names")
    };
    let names = [at_home(0), at_home(1)];
    (topics, hubs, names)
}

/// The same, and a subscriber of the first one's topic on the other worker, whose inbox is full of another topic.
struct Flooded {
    topics: Topics,
    home: Hub,
    mirror: Hub,
    topic: String,
    other: String,
    subscription: Subscription,
}

fn flooded() -> Flooded {
    let (topics, [home, mirror], [topic, other]) = two();
    let mut subscription = mirror.subscribe(&topic, Subscribe::default()).unwrap();
    home.look();
    mirror.look();
    expect(&mut subscription, &[]);
    flood(&home, &other);
    Flooded { topics, home, mirror, topic, other, subscription }
}

fn flood(home: &Hub, topic: &str) {
    while home.publish(topic, "flood") != Published::Busy {}
}

#[test]
fn a_gap_is_filled_however_much_comes_of_other_topics() {
    let Flooded { topics, home, mirror, topic, other, mut subscription } = flooded();
    let flood = || flood(&home, &other);
    home.publish(&topic, "one");
    home.publish(&topic, "two");
    assert_eq!(topics.counters().gaps, 1);
    // One is taken in a turn: three were there, and three are again when the answer comes.
    for _ in 0..8 {
        mirror.look();
        flood();
        home.look();
    }
    expect(&mut subscription, &["one", "two"]);
}

#[test]
fn a_gap_behind_the_answer_to_another_one_is_filled() {
    let Flooded { topics, home, mirror, topic, other, mut subscription } = flooded();
    let flood = || flood(&home, &other);
    home.publish(&topic, "one");
    (0..3).for_each(|_| mirror.look());
    // It has asked for that, and is not answered before there is another gap.
    home.publish(&topic, "two");
    flood();
    home.publish(&topic, "three");
    home.look();
    home.publish(&topic, "four");
    for _ in 0..4 {
        mirror.look();
        home.look();
    }
    expect(&mut subscription, &["one", "two", "three", "four"]);
    assert_eq!(topics.counters().gaps, 3);
}

#[test]
fn a_mirror_begins_with_the_history_that_it_asked_for() {
    let (_, [home, mirror], [topic, _]) = two();
    let left = mirror.subscribe(&topic, Subscribe::default()).unwrap();
    home.look();
    drop(left);
    home.look();
    home.publish(&topic, "before");
    // What the first mirror had asked for lies there, and is not for this one.
    let mut subscription = mirror.subscribe(&topic, Subscribe::default()).unwrap();
    mirror.look();
    expect(&mut subscription, &[]);
    home.look();
    home.publish(&topic, "one");
    mirror.look();
    expect(&mut subscription, &["one"]);
}

#[test]
fn an_answer_wakes_those_whom_it_tells_something() {
    let (_, [home, mirror], [topic, _]) = two();
    let waits = |subscription: &mut Subscription| {
        let flag = Arc::<Flag>::default();
        let waker = flag.clone().into();
        assert!(subscription.poll_next(&mut Context::from_waker(&waker)).is_pending());
        flag
    };
    let mut rests = mirror.subscribe(&topic, Subscribe::default()).unwrap();
    home.look();
    mirror.look();
    let rested = waits(&mut rests);
    let nowhere = Start::After(Place { epoch: 0, offset: 7 });
    let mut lost = [(); 3].map(|()| mirror.subscribe(&topic, how(nowhere, SlowPolicy::Close)).unwrap());
    let told = lost.each_mut().map(waits);
    // The first one asks, and the others once more: they came later.
    for expected in [[true, false, false], [true, true, true]] {
        home.look();
        mirror.look();
        assert_eq!(told.each_ref().map(|flag| flag.0.load(Relaxed)), expected);
    }
    lost.iter_mut().for_each(|lost| expect(lost, &["skipped None"]));
    assert!(!rested.0.load(Relaxed), "there is nothing for it");
    home.publish(&topic, "one");
    mirror.look();
    assert!(rested.0.load(Relaxed));
}

/// Where somebody is who has read what there is.
fn place_behind(subscription: &mut Subscription, expected: &[&str]) -> Start {
    expect(subscription, expected);
    Start::After(subscription.place().expect("it is known at home"))
}

#[test]
fn who_comes_from_a_worker_that_was_further_goes_on_where_it_was() {
    let (topics, [home, mirror], [topic, _]) = two();
    let mut further = home.subscribe(&topic, Subscribe::default()).unwrap();
    let _mirrors = mirror.subscribe(&topic, Subscribe::default()).unwrap();
    home.look();
    mirror.look();
    home.publish(&topic, "one");
    let start = place_behind(&mut further, &["one"]);
    // That lies in the inbox still.
    let mut back = mirror.subscribe(&topic, how(start, SlowPolicy::Close)).unwrap();
    expect(&mut back, &[]);
    home.look();
    home.publish(&topic, "two");
    (0..3).for_each(|_| mirror.look());
    expect(&mut back, &["two"]);
    // Where nobody was, nobody goes on, and it is told.
    let Start::After(place) = start else { unreachable!() };
    let nowhere = Start::After(Place { offset: place.offset + 7, ..place });
    let mut lost = mirror.subscribe(&topic, how(nowhere, SlowPolicy::Close)).unwrap();
    expect(&mut lost, &[]);
    home.look();
    mirror.look();
    expect(&mut lost, &["skipped None"]);
    assert_eq!(topics.counters().resets, 1);
}

#[test]
fn an_answer_from_before_does_not_say_where_somebody_is() {
    let Flooded { topics, home, mirror, topic, other, mut subscription } = flooded();
    let mut further = home.subscribe(&topic, Subscribe::default()).unwrap();
    home.publish(&topic, "one");
    (0..3).for_each(|_| mirror.look());
    // It has asked for that. The answer lies there, and is looked at a turn before another one, which is read at home.
    home.look();
    home.publish(&other, "between");
    home.publish(&topic, "two");
    let start = place_behind(&mut further, &["one", "two"]);
    let mut back = mirror.subscribe(&topic, how(start, SlowPolicy::Close)).unwrap();
    mirror.look();
    expect(&mut back, &[]);
    home.look();
    (0..3).for_each(|_| mirror.look());
    expect(&mut back, &[]);
    home.publish(&topic, "three");
    mirror.look();
    expect(&mut back, &["three"]);
    expect(&mut subscription, &["one", "two", "three"]);
    assert_eq!(topics.counters().resets, 0);
}

/// A flag that is up once its subscriber was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.0.store(true, Relaxed);
    }
}

/// A subscriber that checks what it reads.
struct Reader {
    subscription: Subscription,
    topic: usize,
    flag: Arc<Flag>,
    /// What it has to read next, once that is known.
    next: Option<u64>,
    is_over: bool,
}

impl Reader {
    /// Reads one; whether there was any.
    fn read(&mut self, seen: &mut [BTreeMap<u64, String>]) -> bool {
        let was_woken = self.flag.0.swap(false, Relaxed);
        let waker = self.flag.clone().into();
        match self.subscription.poll_next(&mut Context::from_waker(&waker)) {
            Poll::Pending => return false,
            Poll::Ready(Next::Frame(frame)) => {
                let offset = frame.place().offset;
                assert!(self.next.is_none_or(|next| next == offset), "a gap without a word");
                self.next = Some(offset + 1);
                let text = shown(&Next::Frame(frame));
                let known = seen[self.topic].entry(offset).or_insert_with(|| text.clone());
                assert_eq!(*known, text, "all see the same at offset {offset}");
            }
            Poll::Ready(Next::Skipped(count)) => {
                self.next = self.next.zip(count).map(|(next, count)| next + count);
            }
            Poll::Ready(Next::Lagged) => {
                self.is_over = true;
                return false;
            }
            Poll::Ready(Next::Empty) => unreachable!("it is pending then"),
        }
        assert!(was_woken, "there was something to read, and nobody was told");
        // Behind the first read it is not pending: it reads on without being woken.
        self.flag.0.store(true, Relaxed);
        true
    }
}

const WORKERS: usize = 3;
const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    /// Whatever happens in whatever order: each subscriber sees an unbroken piece of one order, or is told; all that was taken is in it,
    /// once, and what one worker published in the order in which it did; nobody sleeps in front of something to read.
    #[test]
    fn all_see_one_order_and_nothing_is_lost_without_a_word(
        operations in proptest::collection::vec((0u8..12, 0usize..WORKERS, 0usize..3, 0usize..8), 1..300),
    ) {
        let topics = Topics::new(small());
        let hubs: Vec<Hub> = (0..WORKERS).map(|worker| topics.hub_of(worker, WORKERS)).collect();
        let mut seen = vec![BTreeMap::new(); 3];
        let mut taken: Vec<Vec<Vec<String>>> = vec![vec![Vec::new(); WORKERS]; 3];
        let mut readers: Vec<Reader> = Vec::new();
        let subscribe = |worker: usize, topic: usize, how: Subscribe| Reader {
            subscription: hubs[worker].subscribe(NAMES[topic], how).unwrap(),
            topic,
            flag: Arc::new(Flag(AtomicBool::new(true))),
            next: None,
            is_over: false,
        };
        // These never fall behind, so they know the order.
        let home = |topic: usize| topics.0.home_of(NAMES[topic]);
        let mut keepers: Vec<Reader> = (0..3)
            .map(|topic| subscribe(home(topic), topic, Subscribe::default()))
            .collect();
        for (number, (operation, worker, topic, extra)) in operations.into_iter().enumerate() {
            match operation {
                0..5 => {
                    let text = format!("{number}");
                    if let Published::Done { .. } = hubs[worker].publish(NAMES[topic], &text) {
                        taken[topic][worker].push(text);
                    }
                }
                5..7 => {
                    let start = [Start::Now, Start::Last, Start::Oldest][extra % 3];
                    let when_slow = [SlowPolicy::Close, SlowPolicy::Skip, SlowPolicy::Latest][extra / 3];
                    readers.push(subscribe(worker, topic, how(start, when_slow)));
                }
                7 if !readers.is_empty() => {
                    readers.swap_remove((extra * 7 + worker) % readers.len());
                }
                8..10 if !readers.is_empty() => {
                    let at = (extra * 7 + worker) % readers.len();
                    (0..topic * 2).for_each(|_| { readers[at].read(&mut seen); });
                }
                _ => hubs[worker].look(),
            }
            for keeper in &mut keepers {
                while keeper.read(&mut seen) {}
            }
        }
        for _ in 0..100 {
            hubs.iter().for_each(Hub::look);
            for reader in keepers.iter_mut().chain(&mut readers) {
                while reader.read(&mut seen) {}
            }
        }
        for (topic, (seen, taken)) in seen.iter().zip(&taken).enumerate() {
            let total: usize = taken.iter().map(Vec::len).sum();
            prop_assert_eq!(seen.len(), total, "all that was taken is there, once");
            for taken in taken {
                let order: Vec<&String> = seen.values().filter(|text| taken.contains(text)).collect();
                prop_assert_eq!(order, taken.iter().collect::<Vec<_>>());
            }
            for reader in readers.iter().filter(|reader| reader.topic == topic && !reader.is_over) {
                prop_assert!(reader.next.is_none_or(|next| next == total as u64), "it has read to the end");
            }
        }
        let alive = readers.len() + keepers.len();
        prop_assert_eq!(topics.counters().subscribers, alive as u64);
    }
}
