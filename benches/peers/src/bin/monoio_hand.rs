//! monoio by hand: one io_uring runtime a worker, each with its own SO_REUSEPORT listener, HTTP on httparse. No timeouts.

use anyhow::Result;
use clap::Parser;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use ringmill_peers::handwritten::{Next, Session};
use ringmill_peers::net::{self, ServerArgs};

const RECV_BYTES: usize = 4096;
/// Room for one operation of every connection in the largest load here.
const ENTRIES: u32 = 4096;

#[derive(Parser)]
#[command(about = "HTTP/1 (httparse) by hand on monoio's io_uring driver, one runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> Result<()> {
    net::serve(&Args::parse().server, |listener| {
        let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new();
        builder
            .with_entries(ENTRIES)
            .build()?
            .block_on(accept_all(listener))
    })
}

async fn accept_all(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            std::thread::sleep(net::ACCEPT_PAUSE);
            continue;
        };
        // An error is the peer's: it broke off.
        monoio::spawn(async move { serve(stream).await.ok() });
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut session = Session::new();
    let mut buffer = Vec::with_capacity(RECV_BYTES);
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
