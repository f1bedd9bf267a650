//! Topics of two processes with a broker between them that is none: it delivers when it is told to, and loses what it is told to lose.

use super::*;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Mutex;

/// A broker with one order for all.
#[derive(Default)]
struct Fake(Mutex<State>);

#[derive(Default)]
struct State {
    is_up: bool,
    nodes: Vec<Side>,
    /// All that was taken, topic by topic.
    taken: BTreeMap<String, Vec<Bytes>>,
}

/// What it knows of a process.
#[derive(Default)]
struct Side {
    wanted: BTreeMap<String, usize>,
    /// How often a topic was asked for first, and let go last.
    begun: usize,
    ended: usize,
    waiting: VecDeque<Waiting>,
}

enum Waiting {
    Message(String, Bytes),
    /// From here on a topic is heard.
    Began(String),
    Up,
}

struct Wire {
    fake: Arc<Fake>,
    node: usize,
}

impl Carrier for Wire {
    fn publish(&self, topic: &str, payload: Bytes) -> Published {
        let State { is_up, nodes, taken } = &mut *self.fake.0.lock().unwrap();
        if !*is_up {
            return Published::Busy;
        }
        taken.entry(topic.to_owned()).or_default().push(payload.clone());
        for side in nodes.iter_mut().filter(|side| side.wanted.contains_key(topic)) {
            side.waiting.push_back(Waiting::Message(topic.to_owned(), payload.clone()));
        }
        Published::Done { offset: None }
    }

    fn subscribe(&self, topic: &str) {
        let side = &mut self.fake.0.lock().unwrap().nodes[self.node];
        let count = side.wanted.entry(topic.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            side.begun += 1;
            side.waiting.push_back(Waiting::Began(topic.to_owned()));
        }
    }

    fn unsubscribe(&self, topic: &str) {
        let side = &mut self.fake.0.lock().unwrap().nodes[self.node];
        let count = side.wanted.get_mut(topic).expect("nobody lets go what was not asked for");
        *count -= 1;
        if *count == 0 {
            side.wanted.remove(topic);
            side.ended += 1;
        }
    }
}

/// A process.
struct Node {
    fake: Arc<Fake>,
    number: usize,
    topics: Topics,
    hubs: Vec<Hub>,
}

impl Node {
    fn new(fake: &Arc<Fake>, workers: usize, options: TopicOptions) -> Node {
        let number = {
            let nodes = &mut fake.0.lock().unwrap().nodes;
            nodes.push(Side::default());
            nodes.len() - 1
        };
        let topics = Topics::with_seed(options, number as u64);
        topics.carry(Arc::new(Wire { fake: fake.clone(), node: number })).unwrap();
        let hubs = (0..workers).map(|worker| topics.hub_of(worker, workers)).collect();
        Node { fake: fake.clone(), number, topics, hubs }
    }

    /// Lets one thing arrive; whether there was any, and room for it.
    fn arrive(&self) -> bool {
        let arrivals = self.topics.arrivals();
        let side = &mut self.fake.0.lock().unwrap().nodes[self.number];
        match side.waiting.pop_front() {
            None => false,
            Some(Waiting::Up) => {
                arrivals.missed_all();
                true
            }
            Some(Waiting::Began(topic)) => {
                arrivals.began(&topic.as_str().into());
                true
            }
            Some(Waiting::Message(topic, payload)) => {
                let is_taken = arrivals.message(&topic.as_str().into(), &payload);
                if !is_taken {
                    side.waiting.push_front(Waiting::Message(topic, payload));
                }
                is_taken
            }
        }
    }

    fn settle(&self) {
        for _ in 0..4 {
            self.hubs.iter().for_each(Hub::look);
            while self.arrive() {}
        }
        self.hubs.iter().for_each(Hub::look);
    }

    fn tick(&self, secs: u64) {
        self.hubs.iter().for_each(|hub| hub.tick(Tick(secs * 1_000_000_000)));
    }

    /// How many topics are asked for, and how often one was asked for first and let go last.
    fn heard(&self) -> (usize, usize, usize) {
        let side = &self.fake.0.lock().unwrap().nodes[self.number];
        (side.wanted.len(), side.begun, side.ended)
    }
}

impl Fake {
    fn start(&self) {
        let mut state = self.0.lock().unwrap();
        if !state.is_up {
            state.is_up = true;
            state.nodes.iter_mut().for_each(|side| side.waiting.push_back(Waiting::Up));
        }
    }

    /// Each process has got all but so many of what was on its way.
    fn kill(&self, lost: [usize; 2]) {
        let mut state = self.0.lock().unwrap();
        state.is_up = false;
        for (side, lost) in state.nodes.iter_mut().zip(lost) {
            for _ in 0..lost {
                // It tells that there is a connection before anything else.
                if let Some(Waiting::Message(..)) = side.waiting.back() {
                    side.waiting.pop_back();
                }
            }
        }
    }
}

const DONE: Published = Published::Done { offset: None };

fn two_nodes() -> (Arc<Fake>, [Node; 2]) {
    let fake = Arc::<Fake>::default();
    let nodes = [(); 2].map(|()| Node::new(&fake, 2, small()));
    fake.start();
    nodes.iter().for_each(Node::settle);
    (fake, nodes)
}

#[test]
fn what_one_process_publishes_all_get_as_it_was() {
    let (fake, nodes) = two_nodes();
    let mut all: Vec<Subscription> = nodes
        .iter()
        .flat_map(|node| &node.hubs)
        .map(|hub| hub.subscribe("a", Subscribe::default()).unwrap())
        .collect();
    assert_eq!(nodes[0].hubs[0].publish("a", "one"), DONE);
    assert_eq!(nodes[1].hubs[1].publish("a", Publication::binary(&b"\xff"[..]).with_event("two")), DONE);
    assert_eq!(nodes[1].topics.publish("a", "three"), DONE);
    assert_eq!(nodes[1].hubs[0].publish("b", "nobody wants it"), DONE);
    all.iter_mut().for_each(|subscription| expect(subscription, &[]));
    nodes.iter().for_each(Node::settle);
    for subscription in &mut all {
        let mut next = || match subscription.next() {
            Next::Frame(frame) => {
                (frame.is_text(), frame.as_bytes().to_vec(), frame.event().map(str::to_owned))
            }
            other => panic!("no message but {other:?}"),
        };
        assert_eq!(next(), (true, b"one".to_vec(), None));
        assert_eq!(next(), (false, b"\xff".to_vec(), Some("two".to_owned())));
        assert_eq!(next(), (true, b"three".to_vec(), None));
        expect(subscription, &[]);
    }
    assert_eq!(nodes[0].hubs[0].publish("a", "x".repeat(1001)), Published::TooLarge);
    assert_eq!(nodes[0].hubs[0].publish("a b", "x"), Published::NoTopic);
    assert_eq!(fake.0.lock().unwrap().taken["a"].len(), 3);
}

#[test]
fn a_topic_is_heard_from_its_first_subscriber_until_a_while_after_its_last() {
    let (_, [node, other]) = two_nodes();
    let subscribe = |worker: usize| {
        let subscription = node.hubs[worker].subscribe("a", Subscribe::default()).unwrap();
        node.settle();
        subscription
    };
    assert_eq!(node.heard(), (0, 0, 0));
    let all = [subscribe(0), subscribe(1), subscribe(1), subscribe(0)];
    assert_eq!(node.heard(), (1, 1, 0));
    drop(all);
    node.settle();
    node.tick(100);
    assert_eq!(node.heard(), (1, 1, 0));
    // Who comes back in time has missed nothing.
    assert_eq!(other.hubs[0].publish("a", "meanwhile"), DONE);
    node.settle();
    let mut back = node.hubs[0].subscribe("a", how(Start::Oldest, SlowPolicy::Close)).unwrap();
    node.settle();
    expect(&mut back, &["meanwhile"]);
    node.tick(150);
    drop(back);
    node.settle();
    node.tick(151);
    node.tick(210);
    assert_eq!(node.heard(), (1, 1, 0));
    node.tick(211);
    assert_eq!(node.heard(), (0, 1, 1));
    assert_eq!(other.hubs[0].publish("a", "unheard"), DONE);
    assert_eq!(other.heard(), (0, 0, 0));
    let mut late = node.hubs[1].subscribe("a", how(Start::Oldest, SlowPolicy::Close)).unwrap();
    node.settle();
    assert_eq!(node.heard(), (1, 2, 1));
    expect(&mut late, &["meanwhile", "skipped None"]);
    assert_eq!(other.hubs[0].publish("a", "heard"), DONE);
    node.settle();
    expect(&mut late, &["heard"]);
}

#[test]
fn without_lingering_a_topic_is_let_go_at_once_and_who_comes_back_is_told() {
    let fake = Arc::<Fake>::default();
    let node = Node::new(&fake, 1, TopicOptions { linger: Duration::ZERO, ..small() });
    fake.start();
    node.settle();
    let hub = &node.hubs[0];
    let mut first = hub.subscribe("a", Subscribe::default()).unwrap();
    hub.publish("a", "one");
    node.settle();
    let Next::Frame(frame) = first.next() else { panic!("it was published") };
    drop(first);
    assert_eq!(node.heard(), (0, 1, 1));
    let after = || hub.subscribe("a", how(Start::After(frame.place()), SlowPolicy::Close)).unwrap();
    expect(&mut after(), &["skipped None"]);
    // The same for one that is forgotten.
    let mut second = hub.subscribe("a", Subscribe::default()).unwrap();
    hub.publish("a", "two");
    node.settle();
    let Next::Frame(frame) = second.next() else { panic!("it was published") };
    drop(second);
    node.tick(1000);
    node.tick(2000);
    assert_eq!(hub.0.core.borrow().kept(), (0, 0, 0));
    let mut after = hub.subscribe("a", how(Start::After(frame.place()), SlowPolicy::Close)).unwrap();
    expect(&mut after, &["skipped None"]);
}

#[test]
fn a_broker_that_was_lost_begins_another_epoch() {
    let (fake, nodes) = two_nodes();
    let [node, other] = &nodes;
    let start = |start| how(start, SlowPolicy::Skip);
    // One at home, one at a mirror, and one that has not read yet.
    let mut all: Vec<Subscription> =
        [0, 1, 0].map(|worker| node.hubs[worker].subscribe("a", Subscribe::default()).unwrap()).into();
    other.hubs[0].publish("a", "one");
    node.settle();
    let read = |subscription: &mut Subscription, expected: &str| match subscription.next() {
        Next::Frame(frame) => {
            assert_eq!(frame.as_bytes(), expected.as_bytes());
            frame.place()
        }
        other => panic!("no message but {other:?}"),
    };
    let place = read(&mut all[0], "one");
    assert_eq!(read(&mut all[1], "one"), place);
    other.hubs[0].publish("a", "lost");
    fake.kill([1, 0]);
    nodes.iter().for_each(Node::settle);
    assert_eq!(other.hubs[0].publish("a", "refused"), Published::Busy);
    assert_eq!(other.topics.publish("a", "refused"), Published::Busy);
    assert_eq!(other.topics.counters().busy, 2);
    all[..2].iter_mut().for_each(|subscription| expect(subscription, &[]));
    fake.start();
    nodes.iter().for_each(Node::settle);
    other.hubs[0].publish("a", "two");
    other.hubs[0].publish("a", "three");
    node.settle();
    assert_eq!(read(&mut all[2], "one"), place);
    let mut places = Vec::new();
    for subscription in &mut all {
        assert!(matches!(subscription.next(), Next::Skipped(None)));
        places.push([read(subscription, "two"), read(subscription, "three")]);
        expect(subscription, &[]);
    }
    assert!(places.iter().all(|read| *read == places[0]));
    let [two, three] = places[0];
    assert!(two.epoch == three.epoch && two.epoch != place.epoch && three.offset == two.offset + 1);
    for hub in &node.hubs {
        let resume = |from| {
            let subscription = hub.subscribe("a", start(Start::After(from))).unwrap();
            node.settle();
            subscription
        };
        expect(&mut resume(place), &["skipped None"]);
        expect(&mut resume(two), &["three"]);
        let mut all = hub.subscribe("a", start(Start::Oldest)).unwrap();
        expect(&mut all, &["one", "skipped None", "two", "three"]);
    }
    assert_eq!(node.topics.counters().cuts, 1);
}

#[test]
fn nobody_takes_what_lies_before_a_cut_for_the_last_message() {
    let (fake, [node, _]) = two_nodes();
    let hub = &node.hubs[0];
    let _keeper = hub.subscribe("a", Subscribe::default()).unwrap();
    hub.publish("a", "stale");
    node.settle();
    fake.kill([0, 0]);
    fake.start();
    node.settle();
    let mut last = hub.subscribe("a", how(Start::Last, SlowPolicy::Close)).unwrap();
    node.settle();
    expect(&mut last, &[]);
}

#[test]
fn who_falls_behind_a_cut_is_not_told_a_number() {
    let (fake, [node, _]) = two_nodes();
    let mut all: Vec<Subscription> = node
        .hubs
        .iter()
        .flat_map(|hub| {
            [SlowPolicy::Skip, SlowPolicy::Latest]
                .map(|slow| hub.subscribe("a", how(Start::Now, slow)).unwrap())
        })
        .collect();
    node.settle();
    node.hubs[0].publish("a", "0");
    node.settle();
    fake.kill([0, 0]);
    fake.start();
    node.settle();
    for number in 1..10 {
        node.hubs[0].publish("a", number.to_string());
        node.settle();
    }
    for pair in all.chunks_mut(2) {
        expect(&mut pair[0], &["skipped None", "6", "7", "8", "9"]);
        expect(&mut pair[1], &["skipped None", "9"]);
    }
}

#[test]
fn what_cannot_be_read_is_missed_with_a_word() {
    let (_, [node, _]) = two_nodes();
    let mut all: Vec<Subscription> =
        node.hubs.iter().map(|hub| hub.subscribe("a", Subscribe::default()).unwrap()).collect();
    node.settle();
    let arrivals = node.topics.arrivals();
    let too_long = super::envelope::encode(&Publication::text("x".repeat(1001))).unwrap();
    for payload in [Bytes::from_static(b"hello"), Bytes::from_static(b"R\x02\x01hello"), too_long] {
        assert!(arrivals.message(&"a".into(), &payload));
        node.hubs[1].publish("a", "after");
        node.settle();
        all.iter_mut().for_each(|subscription| expect(subscription, &["skipped None", "after"]));
    }
    assert_eq!((node.topics.counters().unreadable, node.topics.counters().cuts), (3, 3));
    // Of what nobody hears, nobody misses anything.
    assert!(arrivals.message(&"b".into(), &Bytes::from_static(b"hello")));
    node.settle();
    assert_eq!(node.topics.counters().cuts, 3);
}

#[test]
fn topics_have_one_carrier_from_the_start() {
    let fake = Arc::<Fake>::default();
    let node = Node::new(&fake, 1, small());
    let wire = || Arc::new(Wire { fake: fake.clone(), node: 0 });
    assert_eq!(node.topics.carry(wire()), Err(InUse));
    let topics = Topics::default();
    assert_eq!(topics.carry(wire()), Ok(()));
    assert_eq!(topics.carry(wire()), Err(InUse));
    // Before there are workers nobody misses anything, and nothing is kept.
    assert!(topics.arrivals().message(&"a".into(), &Bytes::new()));
    topics.arrivals().missed_all();
}

/// A subscriber that checks what it reads against the broker's order.
struct Reader {
    subscription: Subscription,
    node: usize,
    worker: usize,
    topic: usize,
    flag: Arc<Flag>,
    /// Which message it has to read next, if that is known, and else from which one on.
    next: Result<usize, usize>,
    /// It reads this one or an earlier one first, or is told: its worker has published it since.
    no_later_than: Option<usize>,
    epoch: Option<u64>,
    is_over: bool,
}

impl Reader {
    /// Reads one; whether there was any, and its place.
    fn read(
        &mut self,
        seen: &mut BTreeMap<(usize, usize, u64, u64), usize>,
    ) -> Option<Option<(Place, usize)>> {
        let was_woken = self.flag.0.swap(false, Relaxed);
        let waker = self.flag.clone().into();
        let mut read = None;
        match self.subscription.poll_next(&mut Context::from_waker(&waker)) {
            Poll::Pending => return None,
            Poll::Ready(Next::Frame(frame)) => {
                let index: usize = std::str::from_utf8(frame.as_bytes()).unwrap().parse().unwrap();
                match self.next {
                    Ok(next) => assert_eq!(index, next, "a gap without a word"),
                    Err(from) => assert!(index >= from, "it went back"),
                }
                assert!(
                    self.no_later_than.take().is_none_or(|at| index <= at),
                    "its own was missed without a word"
                );
                let Place { epoch, offset } = frame.place();
                assert!(self.epoch.is_none_or(|known| known == epoch), "another epoch without a word");
                let known = *seen.entry((self.node, self.topic, epoch, offset)).or_insert(index);
                assert_eq!(known, index, "a place has one message");
                (self.next, self.epoch) = (Ok(index + 1), Some(epoch));
                read = Some((frame.place(), index));
            }
            Poll::Ready(Next::Skipped(count)) => {
                self.next = match (self.next, count) {
                    (Ok(next), Some(count)) => Ok(next + count as usize),
                    // A worker that is behind may not know the place yet: it begins where it is.
                    (Ok(_), None) if self.epoch.is_none() => Err(0),
                    (Ok(next) | Err(next), _) => Err(next),
                };
                (self.no_later_than, self.epoch) = (None, self.epoch.filter(|_| count.is_some()));
            }
            Poll::Ready(Next::Lagged) => {
                self.is_over = true;
                return None;
            }
            Poll::Ready(Next::Empty) => unreachable!("it is pending then"),
        }
        assert!(was_woken, "there was something to read, and nobody was told");
        self.flag.0.store(true, Relaxed);
        Some(read)
    }
}

proptest! {
    /// Whatever happens in whatever order, the broker's loss included: each subscriber of each process sees an unbroken piece of the
    /// broker's order, or is told; who comes back goes on where it was, or is told; and who is still there at the end has the last message.
    #[test]
    fn all_processes_see_one_order_and_nothing_is_lost_without_a_word(
        operations in proptest::collection::vec((0u8..20, 0usize..4, 0usize..3, 0usize..8), 1..300),
    ) {
        let options = TopicOptions { linger: Duration::from_secs(3), age_max: Duration::from_secs(5), ..small() };
        let fake = Arc::<Fake>::default();
        let nodes = [(); 2].map(|()| Node::new(&fake, 2, options.clone()));
        let mut seen = BTreeMap::new();
        let mut places: Vec<(usize, usize, Place, usize)> = Vec::new();
        let mut readers: Vec<Reader> = Vec::new();
        let mut published = [0usize; 3];
        let mut secs = 1000;
        let subscribe = |node: usize, worker: usize, topic: usize, how: Subscribe, next: Result<usize, usize>| Reader {
            subscription: nodes[node].hubs[worker].subscribe(NAMES[topic], how).unwrap(),
            node,
            worker,
            topic,
            flag: Arc::new(Flag(AtomicBool::new(true))),
            next,
            no_later_than: None,
            epoch: None,
            is_over: false,
        };
        let publish = |node: usize, worker: usize, topic: usize, published: &mut [usize; 3], readers: &mut [Reader]| {
            if nodes[node].hubs[worker].publish(NAMES[topic], published[topic].to_string()) == DONE {
                for reader in readers {
                    // Whoever subscribes now has read nothing yet.
                    if (reader.node, reader.worker, reader.topic) == (node, worker, topic) && reader.next == Err(0) {
                        reader.no_later_than.get_or_insert(published[topic]);
                    }
                }
                published[topic] += 1;
            }
        };
        for (operation, who, topic, extra) in operations {
            let (node, worker) = (who / 2, who % 2);
            match operation {
                0..6 => publish(node, worker, topic, &mut published, &mut readers),
                6..8 => {
                    let start = [Start::Now, Start::Last, Start::Oldest][extra % 3];
                    let when_slow = [SlowPolicy::Close, SlowPolicy::Skip, SlowPolicy::Latest][extra / 3];
                    readers.push(subscribe(node, worker, topic, how(start, when_slow), Err(0)));
                }
                8 if !readers.is_empty() => {
                    readers.swap_remove((extra * 7 + who) % readers.len());
                }
                9 if !places.is_empty() => {
                    let (known_by, topic, place, index) = places[(extra * 31 + topic) % places.len()];
                    // Another process does not know the place: then nothing that it says without a word would be right.
                    let next = if known_by == node { index + 1 } else { usize::MAX };
                    readers.push(subscribe(node, worker, topic, how(Start::After(place), SlowPolicy::Skip), Ok(next)));
                }
                10..13 if !readers.is_empty() => {
                    let at = (extra * 7 + who) % readers.len();
                    for _ in 0..topic * 2 {
                        let (node, topic) = (readers[at].node, readers[at].topic);
                        if let Some(Some((place, index))) = readers[at].read(&mut seen) {
                            places.push((node, topic, place, index));
                        }
                    }
                }
                13..16 => (0..=extra).for_each(|_| { nodes[node].arrive(); }),
                16 => fake.kill([extra % 4, topic]),
                17 => fake.start(),
                18 => {
                    secs += 1;
                    nodes[node].tick(secs);
                }
                _ => nodes[node].hubs[worker].look(),
            }
        }
        fake.start();
        let settle = |readers: &mut Vec<Reader>, seen: &mut _| for _ in 0..10 {
            nodes.iter().for_each(Node::settle);
            readers.iter_mut().for_each(|reader| while reader.read(seen).is_some() {});
        };
        settle(&mut readers, &mut seen);
        for topic in 0..3 {
            publish(0, 0, topic, &mut published, &mut readers);
        }
        settle(&mut readers, &mut seen);
        for reader in readers.iter().filter(|reader| !reader.is_over) {
            prop_assert_eq!(reader.next, Ok(published[reader.topic]), "it has the last message");
        }
        readers.clear();
        for secs in secs..secs + 20 {
            nodes.iter().for_each(Node::settle);
            nodes.iter().for_each(|node| node.tick(secs));
        }
        for node in &nodes {
            prop_assert_eq!(node.heard().0, 0, "what nobody wants is not heard");
            prop_assert!(node.hubs.iter().all(|hub| hub.0.core.borrow().kept() == (0, 0, 0)), "and is forgotten");
        }
    }
}
