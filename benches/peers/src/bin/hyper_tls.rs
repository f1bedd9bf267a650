//! hyper with tokio-rustls, one current-thread tokio runtime a worker: hyper_percore over TLS.
//!
//! As Ringmill has it: rustls with aws-lc-rs, TLS 1.2 and 1.3, X25519MLKEM768 preferred, ALPN http/1.1, stateless tickets and
//! no store of sessions. All workers share one configuration, so a client resumes on any.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ringmill_peers::hyper_site::answer;
use ringmill_peers::net::{self, ServerArgs};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Parser)]
#[command(about = "hyper HTTP/1 server over TLS with one current-thread runtime a worker")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Certificate with its chain, PEM.
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let acceptor = TlsAcceptor::from(Arc::new(config(&args.tls_cert, &args.tls_key)?));
    net::serve(&args.server, move |listener| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(accept_all(listener, &acceptor))
    })
}

fn config(cert: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| cert.display().to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

async fn accept_all(listener: std::net::TcpListener, acceptor: &TlsAcceptor) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            std::thread::sleep(net::ACCEPT_PAUSE);
            continue;
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Errors here are the peer's: it broke off, or sent something that is not TLS, or not HTTP.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let _ = hyper::server::conn::http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}
