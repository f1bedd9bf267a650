//! HTTP handlers that stream both ways. What they write does not depend on how anything was cut.

use bytes::Bytes;
use ringmill_engine::driver::sim::Watch;
use ringmill_protocols::http::{
    Async, BodyWriter, Fill, Handler, OwnedReply, OwnedRequest, Plan, Reply, Request, Source, Upload,
};

pub struct Site {
    watch: Watch,
    waiting: Async,
}

impl Site {
    pub fn new(watch: Watch) -> Site {
        let tasks = watch.clone();
        let waiting = Async::new(async move |request: OwnedRequest, reply: OwnedReply| {
            if request.path() == "/gone" {
                tasks.wakes_itself();
                request.peer().gone().await;
                return reply.text("gone");
            }
            let times = request.path().trim_start_matches(|byte: char| !byte.is_ascii_digit());
            for _ in 0..times.parse().unwrap_or(1) {
                tasks.task().await;
            }
            reply.body(request.into_body())
        });
        Site { watch, waiting }
    }
}

impl Handler for Site {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        if self.watch.left() > 1 {
            // A request on one worker wakes a reply on another.
            self.watch.wake(&self.watch.take(0));
        }
        let (route, number) = request.path()[1..].split_once('/').unwrap_or((&request.path()[1..], "0"));
        let number: usize = number.parse().unwrap_or(0);
        match route {
            "text" => reply.text("text"),
            "body" => reply.body(request.body()),
            "empty" => reply.status(204).empty(),
            "shared" => reply.body_shared(Bytes::from(vec![b'S'; number])),
            "sized" => reply.stream(Some(number as u64), Count { left: number }),
            "chunked" => reply.stream(None, Count { left: number }),
            "slow" => reply.stream(None, Slow { left: number, watch: self.watch.clone() }),
            "later" => {
                let watch = self.watch.clone();
                reply.status(201).later(async move {
                    for _ in 0..number {
                        watch.task().await;
                    }
                    OwnedReply::new().stream(None, Count { left: number * 500 })
                });
            }
            "wait" | "gone" => self.waiting.handle(request, reply),
            "panic" => panic!("on purpose"),
            _ => reply.status(404).text("404"),
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match request.path() {
            "/mirror" => Plan::Stream(Box::new(Mirror { length: request.body_length(), begun: false })),
            "/recut" => Plan::Stream(Box::new(Recut { kept: Vec::new(), begun: false })),
            "/small" => Plan::CollectUpTo(10),
            _ => Plan::Collect,
        }
    }
}

/// Counts down, as there is room.
struct Count {
    left: usize,
}

impl Source for Count {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        let bytes = self.left.min(300);
        self.left -= bytes;
        body.write(&vec![b'0' + (self.left % 10) as u8; bytes]);
        if self.left == 0 { Fill::End } else { Fill::More }
    }
}

/// Writes one byte, then waits to be woken.
struct Slow {
    left: usize,
    watch: Watch,
}

impl Source for Slow {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        body.write(&[b'0' + (self.left % 10) as u8]);
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Fill::End;
        }
        self.watch.leave(body.waker());
        Fill::Pending
    }
}

/// Sends a body of known length back as it comes.
struct Mirror {
    length: Option<u64>,
    begun: bool,
}

impl Upload for Mirror {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !std::mem::replace(&mut self.begun, true) {
            reply.begin(self.length);
        }
        reply.write(bytes);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        if self.begun { reply.end() } else { reply.text("nothing") }
    }
}

/// Sends a body back in chunks of its own size.
struct Recut {
    kept: Vec<u8>,
    begun: bool,
}

const RECUT_BYTES: usize = 37;

impl Upload for Recut {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !std::mem::replace(&mut self.begun, true) {
            reply.begin(None);
        }
        self.kept.extend(bytes);
        let whole = self.kept.len() / RECUT_BYTES * RECUT_BYTES;
        for chunk in self.kept.drain(..whole).collect::<Vec<u8>>().chunks(RECUT_BYTES) {
            reply.write(chunk);
        }
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        if !self.begun {
            return reply.text("nothing");
        }
        reply.write(&self.kept);
        reply.end();
    }
}
