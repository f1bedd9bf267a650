//! The app of axum on Ringmill: one changed line.

use anyhow::{Result, ensure};
use clap::Parser;
use ringmill::{Config, DriverChoice};
use ringmill_peers::app;
use ringmill_peers::net::{self, ServerArgs};

#[derive(Parser)]
#[command(about = "axum app on Ringmill")]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// How bytes move: auto, uring, poll.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    driver: DriverChoice,
}

fn main() -> Result<()> {
    let Args { server, driver } = Args::parse();
    ensure!(
        server.listen.congestion.is_none() && server.listen.defer_accept.is_none(),
        "this program sets neither congestion control nor deferred accepts"
    );
    net::raise_open_files_limit()?;
    let config = Config {
        workers: Some(server.workers.into()),
        driver,
        ..Config::default()
    };
    ringmill::serve(server.listen.listen, app::router())
        .config(config)
        .on_start(|running| println!("listening {}", running.addresses()[0]))
        .run()?;
    Ok(())
}
