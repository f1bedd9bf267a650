//! tokio-uring 0.5 by hand: one runtime a worker, each with its own SO_REUSEPORT listener, HTTP on httparse.
//!
//! One receive and one send at a time, with owned buffers: it has no multishot operations and no buffer rings. No timeouts.

use anyhow::Result;
use clap::Parser;
use ringmill_peers::handwritten::{Next, Session};
use ringmill_peers::net::{self, ServerArgs};
use tokio_uring::net::{TcpListener, TcpStream};

const RECV_BYTES: usize = 4096;
/// Room for one operation of every connection in the largest load here.
const ENTRIES: u32 = 4096;

#[derive(Parser)]
#[command(about = "HTTP/1 (httparse) by hand on tokio-uring, one runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    net::serve(&Args::parse().server, |listener| {
        tokio_uring::builder()
            .entries(ENTRIES)
            // What the kernel offers to a ring that is used from one thread. DEFER_TASKRUN is out: this runtime waits in
            // epoll, where such a ring does not become readable.
            .uring_builder(
                tokio_uring::uring_builder()
                    .setup_single_issuer()
                    .setup_coop_taskrun(),
            )
            .start(accept_all(listener))
    })
}

async fn accept_all(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            std::thread::sleep(net::ACCEPT_PAUSE);
            continue;
        };
        // An error is the peer's: it broke off.
        tokio_uring::spawn(async move { serve(stream).await.ok() });
    }
}

async fn serve(stream: TcpStream) -> Result<()> {
    let mut session = Session::new();
    let mut buffer = vec![0; RECV_BYTES];
    loop {
        let (count, returned) = stream.read(buffer).await;
        buffer = returned;
        let count = count?;
        if count == 0 {
            return Ok(());
        }
        let mut next = session.receive(&buffer[..count]);
        loop {
            if !session.output.is_empty() {
                let (written, mut output) = stream.write_all(std::mem::take(&mut session.output)).await;
                written?;
                output.clear();
                session.output = output;
            }
            match next {
                Next::Read => break,
                Next::Close => return Ok(()),
                Next::Pieces => {
                    while let Some(piece) = session.next_piece() {
                        stream.write_all(piece).await.0?;
                    }
                    next = session.resume();
                }
            }
        }
    }
}
