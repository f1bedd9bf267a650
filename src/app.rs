//! axum's programs by one changed line: [`serve`] for `axum::serve`.
//!
//! What a program sees is axum's: `Router`, extractors, responses, middleware. Under it are our workers, each with a runtime of tokio of
//! its own, and our HTTP (`ringmill_protocols::adapt`). What can be served is in `app/kinds.rs`. The types of axum, of tonic and of tokio
//! end here.

mod kinds;

pub use kinds::{App, Incoming};

use ringmill_engine::{
    Builder, Config, Engine, Error, Handle, ListenOn, ListenOptions, Running, TokioOptions, WorkerContext,
};
#[cfg(any(feature = "tls", feature = "tls-ring"))]
use ringmill_protocols::TlsStore;
use ringmill_protocols::adapt::{BoxError, Http2Limits};
use ringmill_protocols::http::Limits;
use ringmill_protocols::topic::Topics;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Serves an axum app: a `Router`, or what its `into_make_service` and `into_make_service_with_connect_info` make; and with the feature
/// `tonic`, the `Routes` of gRPC services.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<(), ringmill::Error> {
///     let app = Router::new().route("/", get(async || "Hello, World!"));
///     ringmill::serve("0.0.0.0:3000", app).await
/// }
/// ```
///
/// Each worker has a clone of the app, and runs its handlers on its own thread: state that all share goes into an `Arc`, as with any
/// axum app. What belongs to one runtime of tokio, such as a pool of connections to a database, is better made in each worker:
/// [`serve_with`].
///
/// In place of an address it takes a listener that is bound already, tokio's or that of the standard library ([`ListenOn`]).
pub fn serve<A: App>(address: impl TryInto<ListenOn, Error: Into<Error>>, app: A) -> Serve<A> {
    let app = Mutex::new(app);
    Serve::new(address, move |_| {
        let app = app.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(std::future::ready(Ok(app)))
    })
}

/// Serves apps that each worker makes for itself, in its own runtime of tokio: what they connect to is driven there.
///
/// ```no_run
/// # use axum::{Router, routing::get};
/// # #[derive(Clone)] struct Database;
/// # impl Database { async fn connect(_: &str) -> Result<Database, std::io::Error> { Ok(Database) } }
/// fn main() -> Result<(), ringmill::Error> {
///     let serve = ringmill::serve_with("0.0.0.0:3000", async |_worker| {
///         let database = Database::connect("localhost").await?;
///         Ok::<_, std::io::Error>(Router::new().route("/", get(async || "Hello!")).with_state(database))
///     });
///     serve.run()
/// }
/// ```
pub fn serve_with<A, E>(
    address: impl TryInto<ListenOn, Error: Into<Error>>,
    factory: impl AsyncFn(WorkerContext) -> Result<A, E> + Send + Sync + 'static,
) -> Serve<A>
where
    A: App,
    E: Into<BoxError>,
{
    let factory = Arc::new(factory);
    Serve::new(address, move |worker| {
        let factory = factory.clone();
        Box::pin(async move { factory(worker).await.map_err(Into::into) })
    })
}

type Make<A> = dyn Fn(WorkerContext) -> Pin<Box<dyn Future<Output = Result<A, BoxError>>>> + Send + Sync;
type OnStart = dyn FnOnce(&Running) + Send;
type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An app that is to be served: await it, or [`run`](Serve::run) it, or [`start`](Serve::start) it.
#[must_use = "nothing is served before it is awaited, run or started"]
pub struct Serve<A> {
    make: Arc<Make<A>>,
    listeners: Vec<Listener>,
    config: Config,
    tokio: TokioOptions,
    limits: Limits,
    http2: Http2Limits,
    drain: Duration,
    signal: Option<Signal>,
    on_start: Option<Box<OnStart>>,
    topics: Vec<Topics>,
    problem: Option<Error>,
}

struct Listener {
    address: ListenOn,
    options: ListenOptions,
    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    tls: Option<Arc<TlsStore>>,
}

/// How long a drain waits for what is under way, unless it is told otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

impl<A: App> Serve<A> {
    fn new(
        address: impl TryInto<ListenOn, Error: Into<Error>>,
        make: impl Fn(WorkerContext) -> Pin<Box<dyn Future<Output = Result<A, BoxError>>>> + Send + Sync + 'static,
    ) -> Serve<A> {
        let serve = Serve {
            make: Arc::new(make),
            listeners: Vec::new(),
            config: Config::default(),
            tokio: TokioOptions::default(),
            limits: Limits::default(),
            http2: Http2Limits::default(),
            drain: DRAIN_TIMEOUT,
            signal: None,
            on_start: None,
            topics: Vec::new(),
            problem: None,
        };
        serve.listen(address)
    }

    /// Listens on one more address, or with one more listener that is bound already.
    pub fn listen(self, address: impl TryInto<ListenOn, Error: Into<Error>>) -> Serve<A> {
        self.listen_with(address, ListenOptions::default())
    }

    /// The same with options.
    pub fn listen_with(
        mut self,
        address: impl TryInto<ListenOn, Error: Into<Error>>,
        options: ListenOptions,
    ) -> Serve<A> {
        match address.try_into() {
            Ok(address) => self.listeners.push(Listener {
                address,
                options,
                #[cfg(any(feature = "tls", feature = "tls-ring"))]
                tls: None,
            }),
            Err(error) => self.problem = self.problem.take().or(Some(error.into())),
        }
        self
    }

    /// Speaks TLS on the address that was named last. Browsers need `h2` and `http/1.1` among the protocols that it offers
    /// ([`TlsConfig::with_alpn`](crate::TlsConfig::with_alpn)).
    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    pub fn tls(mut self, store: Arc<TlsStore>) -> Serve<A> {
        if let Some(listener) = self.listeners.last_mut() {
            listener.tls = Some(store);
        }
        self
    }

    /// Replaces the configuration of the engine.
    pub fn config(self, config: Config) -> Serve<A> {
        Serve { config, ..self }
    }

    /// Sets the number of workers.
    pub fn workers(mut self, workers: usize) -> Serve<A> {
        self.config.workers = Some(workers);
        self
    }

    /// Has handlers publish to these topics, and answer with what is published ([`adapt::Feed`](crate::adapt::Feed)), on all workers.
    /// With a broker, which carries them to other servers, once it is connected to them (`Topics::connect`).
    pub fn topics(mut self, topics: &Topics) -> Serve<A> {
        self.topics.push(topics.clone());
        self
    }

    /// Replaces the limits and timeouts of HTTP.
    pub fn limits(self, limits: Limits) -> Serve<A> {
        Serve { limits, ..self }
    }

    /// Replaces the limits and timeouts of HTTP/2: those that follow here are among them.
    pub fn http2(self, http2: Http2Limits) -> Serve<A> {
        Serve { http2, ..self }
    }

    /// Ends connections of HTTP/2 at about this age, so that clients come again and find servers that are new: they are told to go
    /// (GOAWAY), and what they have begun has `grace` to end. Not done unless it is set.
    pub fn connection_age(mut self, age: Duration, grace: Duration) -> Serve<A> {
        (self.http2.age_max, self.http2.age_grace) = (Some(age), grace);
        self
    }

    /// Ends calls of gRPC over HTTP/2 after this time (DEADLINE_EXCEEDED), also those whose `grpc-timeout` is longer, or that have none.
    /// Unless it is set, calls have the time that their clients give them.
    pub fn grpc_timeout_max(mut self, max: Duration) -> Serve<A> {
        self.http2.grpc_timeout_max = Some(max);
        self
    }

    /// Asks clients of HTTP/2 that are silent for `interval` whether they are still there (PING), and lets go whoever does not answer
    /// within `timeout`. Unless it is set, these are 20 and 10 seconds.
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> Serve<A> {
        (self.http2.ping_interval, self.http2.ping_timeout) = (Some(interval), timeout);
        self
    }

    /// How many requests a client may have under way on a connection of HTTP/2; 200 unless it is set. For a limit over all connections,
    /// put `tower::limit::GlobalConcurrencyLimitLayer` on the app: requests beyond it wait for their turn, and with
    /// `tower::load_shed` before it they are refused.
    pub fn concurrency_per_connection(mut self, requests: u32) -> Serve<A> {
        self.http2.streams_max = requests;
        self
    }

    /// Replaces the options of the workers' runtimes.
    pub fn tokio(self, tokio: TokioOptions) -> Serve<A> {
        Serve { tokio, ..self }
    }

    /// Stops accepting when `signal` is there, finishes what is under way, and ends: for who awaits this.
    pub fn with_graceful_shutdown(self, signal: impl Future<Output = ()> + Send + 'static) -> Serve<A> {
        Serve { signal: Some(Box::pin(signal)), ..self }
    }

    /// How long that may take; 30 seconds unless it is set. What is under way then is cut.
    pub fn drain(self, timeout: Duration) -> Serve<A> {
        Serve { drain: timeout, ..self }
    }

    /// Calls `tell` once all workers serve: with the addresses that they listen on, the driver, the counters.
    pub fn on_start(self, tell: impl FnOnce(&Running) + Send + 'static) -> Serve<A> {
        Serve { on_start: Some(Box::new(tell)), ..self }
    }

    /// Starts, and gives back the running engine.
    pub fn start(self) -> Result<Running, Error> {
        self.begin().map(|(running, _)| running)
    }

    /// Runs until it is stopped, on threads of its own: this one waits.
    pub fn run(self) -> Result<(), Error> {
        self.start()?.join()
    }

    fn begin(self) -> Result<(Running, Option<(Signal, Duration)>), Error> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let mut builder = Engine::builder().config(self.config).tokio(self.tokio);
        let limits = (self.limits, self.http2);
        for topics in self.topics {
            builder = builder.outbound(topics.service());
        }
        for listener in self.listeners {
            builder = listen(builder, listener, self.make.clone(), limits.clone());
        }
        let signal = self.signal.map(|signal| (signal, self.drain));
        let running = builder.start()?;
        if let Some(tell) = self.on_start {
            tell(&running);
        }
        Ok((running, signal))
    }
}

fn listen<A: App>(
    builder: Builder,
    listener: Listener,
    make: Arc<Make<A>>,
    limits: (Limits, Http2Limits),
) -> Builder {
    let server = move |worker| {
        let (app, (limits, http2)) = (make(worker), limits.clone());
        async move { Ok::<_, BoxError>(app.await?.server().with_limits(limits).with_http2_limits(http2)) }
    };
    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    if let Some(store) = listener.tls {
        let secured = move |worker| {
            let (server, store) = (server(worker), store.clone());
            async move { Ok::<_, BoxError>(ringmill_protocols::Tls::new(server.await?, store)) }
        };
        return builder.listen_async(listener.address, listener.options, secured);
    }
    builder.listen_async(listener.address, listener.options, server)
}

impl<A: App> IntoFuture for Serve<A> {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            // The start waits for the workers, and a factory may need something of this very runtime.
            let (running, mut signal) = elsewhere(move || self.begin()).await?;
            let stop = StopWhenDropped(running.handle());
            let mut joined = pin!(elsewhere(move || running.join()));
            poll_fn(move |context| {
                if let Some((future, timeout)) = &mut signal
                    && future.as_mut().poll(context).is_ready()
                {
                    stop.0.drain(*timeout);
                    signal = None;
                }
                joined.as_mut().poll(context)
            })
            .await
        })
    }
}

/// What blocks, on a thread for that.
async fn elsewhere<T: Send + 'static>(blocking: impl FnOnce() -> T + Send + 'static) -> T {
    let joined = tokio::task::spawn_blocking(blocking).await;
    joined.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Who no longer awaits a server does not want it any more.
struct StopWhenDropped(Handle);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}
