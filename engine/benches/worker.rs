//! A turn of the worker on the simulated kernel: what the loop costs an event, without system calls for sockets.
//!
//! `echo` is the worker with the simulated kernel, `kernel alone` the same operations handed to the simulated kernel
//! without a worker: the difference is the worker's, and one system call a turn, by which the simulated kernel looks at
//! the bell; so look at many connections. The simulator's checks are off, and what the peers do is not measured.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmill_engine::driver::sim::{Chaos, Net, Peer, Sim, Simulation};
use ringmill_engine::driver::{Driver, Wait};
use ringmill_engine::event::{Event, Op, Payload, Socket, Then};
use ringmill_engine::output::Output;
use ringmill_engine::token::{Kind, Token};
use ringmill_engine::{Config, Io, Protocol, Step};

const MESSAGE: &[u8] = &[b'm'; 64];
const NEVER_FAILS: &str = "nothing fails on a calm simulated kernel";

struct Echo;

impl Protocol for Echo {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        io.write(input);
        Step::consumed(input.len())
    }
}

/// Answers what came in, and nothing else.
struct Bare {
    sim: Sim,
    events: Vec<Event>,
    sockets: Vec<Socket>,
    #[expect(clippy::vec_box, reason = "the box moves into the operation as it is")]
    outputs: Vec<Box<Output>>,
}

impl Bare {
    /// Accepts so many connections, which wait already, and receives on them.
    fn accept(mut sim: Sim, listener: Socket, connections: u32) -> Bare {
        let (mut events, mut sockets) = (Vec::new(), Vec::new());
        sim.submit(Op::Accept { token: Token::new(Kind::Accept, 0, 0), listener });
        while sockets.len() < connections as usize {
            sim.turn(Wait::Forever, &mut events).expect(NEVER_FAILS);
            sockets.extend(events.drain(..).map(|event| Socket(event.result.expect(NEVER_FAILS) as i32)));
        }
        for (index, &socket) in sockets.iter().enumerate() {
            let token = Token::new(Kind::Recv, 1, index as u32);
            sim.submit(Op::Recv { token, socket, turn_bytes_max: 65_536, is_limited: false });
        }
        sim.turn(Wait::Forever, &mut events).expect(NEVER_FAILS);
        Bare { sim, events, sockets, outputs: Vec::new() }
    }

    fn turn(&mut self) {
        self.sim.turn(Wait::Forever, &mut self.events).expect(NEVER_FAILS);
        for event in self.events.drain(..) {
            match event.payload {
                Payload::Block(block) => {
                    let index = event.token.index();
                    let mut output = self.outputs.pop().unwrap_or_default();
                    output.buffer().extend_from_slice(&block);
                    let (token, socket) = (Token::new(Kind::Send, 1, index), self.sockets[index as usize]);
                    self.sim.submit(Op::Provide(block));
                    self.sim.submit(Op::Send { token, socket, output, then: Then::Rest });
                }
                Payload::Output(mut output) => {
                    output.buffer().clear();
                    self.outputs.push(output);
                }
                other => panic!("an event with {other:?}"),
            }
        }
    }
}

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    for connections in [1, 16, 64] {
        group.throughput(Throughput::Elements(u64::from(connections)));

        let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
        let listener = simulation.listen_unwatched(Echo);
        simulation.start();
        let peers = connect(&simulation.net(), listener, connections);
        while simulation.counters().connections < u64::from(connections) {
            simulation.turn_unchecked();
        }
        group.bench_function(format!("echo, {connections} connections"), |b| {
            b.iter_batched(|| talk(&peers), |()| simulation.turn_unchecked(), BatchSize::PerIteration);
        });

        let config = Config::default();
        let (sim, net) = Sim::new(1, Chaos::CALM, config.recv_buffers, config.recv_buffer_bytes);
        let listener = net.listen();
        let peers = connect(&net, listener, connections);
        let mut bare = Bare::accept(sim, listener, connections);
        group.bench_function(format!("kernel alone, {connections} connections"), |b| {
            b.iter_batched(|| talk(&peers), |()| bare.turn(), BatchSize::PerIteration);
        });
        assert_eq!(bare.sim.buffers_out(), 0);
    }
    group.finish();
}

fn connect(net: &Net, listener: Socket, connections: u32) -> Vec<Peer> {
    (0..connections).map(|_| net.connect(listener).expect("it listens")).collect()
}

/// Takes the answer of the turn before, and sends.
fn talk(peers: &[Peer]) {
    for peer in peers {
        peer.take();
        peer.send(MESSAGE);
    }
}

criterion_group!(benches, turn);
criterion_main!(benches);
