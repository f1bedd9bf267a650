//! Pingora as a proxy: one route, one backend, one thread, no logs. It never reads a file and adds no module to Pingora's own.
//!
//! What is equal in the other proxies is in `../peers/README.md`.

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::prelude::*;
use pingora::proxy::http_proxy_service;
use pingora::server::configuration::ServerConf;
use std::sync::Arc;

/// Idle connections with the backend that are kept: more than there are clients.
const KEPT: usize = 512;

struct Proxy {
    backend: std::net::SocketAddr,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    /// The route; all else is answered with 404.
    async fn request_filter(&self, session: &mut Session, _: &mut ()) -> Result<bool> {
        if session.req_header().uri.path().starts_with("/bytes/") {
            return Ok(false);
        }
        session.respond_error(404).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("x-forwarded-for", client.ip().to_string())?;
        }
        Ok(())
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(backend)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: pingora_proxy LISTEN BACKEND");
        std::process::exit(2);
    };
    let Ok(backend) = backend.parse() else {
        eprintln!("{backend:?} is not an address with a port");
        std::process::exit(2);
    };
    // One thread has nobody to steal from.
    let settings = ServerConf {
        threads: 1,
        work_stealing: false,
        upstream_keepalive_pool_size: KEPT,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), Proxy { backend });
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever();
}
