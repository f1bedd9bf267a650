//! What the programs share: where they listen, and that they say so. And gRPC in ten lines, as the README has them:
//!
//! ```no_run
//! use std::time::Duration;
//! use tonic_health::{ServingStatus, server::health_reporter};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), ringmill::Error> {
//!     let (reporter, health) = health_reporter();
//!     reporter.set_service_status("greeter", ServingStatus::Serving).await;
//!     let routes = tonic::service::Routes::new(health); // and `add_service` for each of yours
//!     ringmill::serve("0.0.0.0:50051", routes)
//!         .connection_age(Duration::from_secs(3600), Duration::from_secs(30)) // GOAWAY, then half a minute; give or take a tenth
//!         .grpc_timeout_max(Duration::from_secs(60)) // DEADLINE_EXCEEDED, whatever `grpc-timeout` says
//!         .await
//! }
//! ```

/// The first argument, such as `[::]:80`.
pub fn address() -> String {
    std::env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned())
}

/// Says where the program can be reached, once it can.
pub fn tell(running: &ringmill::Running) {
    println!("http://{} with {}", running.addresses()[0], running.driver());
}
