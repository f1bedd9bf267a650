//! State without locks: each worker counts what it served, in a plain `Cell` behind an `Rc`.
//! `cargo run --example shared_nothing`, then `curl http://127.0.0.1:8081/` a few times.
//!
//! Connections are spread over the workers by the kernel, so the counts differ from worker to worker, and each is
//! exact. What must be one number for all workers is summed when somebody asks: `worker.stats` does it so.

use ringmill::{Engine, http};
use std::cell::Cell;
use std::rc::Rc;

fn main() -> Result<(), ringmill::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8081".to_owned());
    let engine = Engine::builder()
        .listen(address, |worker| {
            // Made on the worker's own thread: `Rc` and `Cell` are fine, and would not compile if they could leave it.
            let (index, stats, served) = (worker.index, worker.stats.clone(), Rc::new(Cell::new(0u64)));
            http::server(move |_request, reply| {
                served.set(served.get() + 1);
                let all = stats.total().requests;
                reply.text(&format!("worker {index} served {}, all together about {all}\n", served.get()));
            })
        })
        .start()?;
    println!("http on {} with {} workers", engine.addresses()[0], engine.cpus().len());
    engine.join()
}
