//! tokio by hand: one current-thread runtime a worker, each with its own SO_REUSEPORT listener, HTTP on httparse.
//!
//! With `--udp` it echoes datagrams on the same address instead, one `recv_from` and one `send_to` each. No timeouts.

use anyhow::{Context, Result};
use clap::Parser;
use ringmill_peers::handwritten::{Next, Session};
use ringmill_peers::net::{self, ServerArgs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const RECV_BYTES: usize = 4096;
const DATAGRAM_BYTES_MAX: usize = 2048;

#[derive(Parser)]
#[command(about = "HTTP/1 (httparse) or UDP echo by hand on tokio, one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Echo datagrams instead of serving HTTP.
    #[arg(long)]
    udp: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.udp {
        let socket = net::udp_socket(args.server.listen.listen).context("cannot bind")?;
        socket.set_nonblocking(true)?;
        net::announce(&socket)?;
        return runtime()?.block_on(echo_datagrams(socket.into()));
    }
    net::serve(&args.server, |listener| runtime()?.block_on(accept_all(listener)))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?)
}

async fn accept_all(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            std::thread::sleep(net::ACCEPT_PAUSE);
            continue;
        };
        // An error is the peer's: it broke off.
        tokio::spawn(async move { serve(stream).await.ok() });
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut session = Session::new();
    let mut buffer = vec![0; RECV_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let mut next = session.receive(&buffer[..count]);
        loop {
            if !session.output.is_empty() {
                stream.write_all(&session.output).await?;
                session.output.clear();
            }
            match next {
                Next::Read => break,
                Next::Close => return Ok(()),
                Next::Pieces => {
                    while let Some(piece) = session.next_piece() {
                        stream.write_all(piece).await?;
                    }
                    next = session.resume();
                }
            }
        }
    }
}

async fn echo_datagrams(socket: std::net::UdpSocket) -> Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        // Errors are those of one datagram, such as a peer whose port is closed.
        if let Ok((count, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..count], peer).await;
        }
    }
}
