//! One stream of an HTTP/2 connection: a request for the service, its answer, and what both may cost.
//!
//! hyper calls the service here, and makes a task of what it gets; the session (`h2.rs`) polls it. A panic ends its own stream only,
//! a call of gRPC ends with its deadline (`grpc.rs`), and a stream whose client takes nothing of its answer is reset.

use super::body::Body;
use super::grpc::{self, Deadline};
use super::limits::Http2Limits;
use super::notices::Notices;
use super::service::{Answer, BoxError, call};
use super::timer::Clock;
use crate::http::{Limits, Shutdown, misuse};
use bytes::{Buf, Bytes};
use http::{Extensions, Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::{Executor, Sleep, Timer};
use ringmill_engine::Tick;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Of a body so much is given to hyper at once: it keeps what it has, and asks for more when the client's window has room again.
const PIECE_BYTES: usize = 16 * 1024;
/// What a stream takes, about, besides its fields.
const STREAM_BYTES: usize = 3 * 1024;
/// What one of its fields takes in a map of them, about.
const FIELD_BYTES: usize = 128;

pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What hyper spawns, until the session takes it.
#[derive(Clone)]
pub(super) struct Tasks(Rc<Common>);

/// What all streams of a connection have in common with their session.
pub(super) struct Common {
    pub(super) census: Census,
    pub(super) clock: Clock,
    spawned: RefCell<Vec<Task>>,
    /// That of the stream whose task hyper spawns next.
    newest: RefCell<Option<Rc<Progress>>>,
    stalled_timeout: Duration,
    body_timeout: Duration,
    grpc_timeout_max: Option<Duration>,
    handler_timeout: Duration,
}

/// What a connection's streams tell its session, and it them.
#[derive(Default)]
pub(super) struct Census {
    open: Cell<usize>,
    bytes: Cell<usize>,
    pub(super) requests: Cell<u64>,
    pub(super) panics: Cell<u64>,
    /// For a request the service was not ready in time, or it did not answer one.
    pub(super) not_ready: Cell<bool>,
    pub(super) took_long: Cell<bool>,
    /// Requests that were refused for want of memory.
    pub(super) refused: Cell<u64>,
    /// The worker has no memory for more streams.
    pub(super) is_exhausted: Cell<bool>,
    /// When the client was last behind with what the whole connection sends.
    pub(super) behind: Cell<Option<Tick>>,
}

impl Census {
    /// Streams that wait for an answer, or have not sent all of it.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

/// How far the body of an answer is.
#[derive(Default)]
struct Progress {
    /// How often more of it was asked for.
    asked: Cell<u64>,
    /// It has more, and is not asked for it.
    is_owed: Cell<bool>,
}

impl Tasks {
    pub(super) fn new(clock: Clock, limits: &Limits, own: &Http2Limits) -> Tasks {
        Tasks(Rc::new(Common {
            census: Census::default(),
            clock,
            spawned: RefCell::default(),
            newest: RefCell::default(),
            stalled_timeout: own.stalled_timeout,
            body_timeout: limits.body_idle_timeout,
            grpc_timeout_max: own.grpc_timeout_max,
            handler_timeout: limits.handler_timeout,
        }))
    }

    pub(super) fn common(&self) -> &Rc<Common> {
        &self.0
    }

    pub(super) fn take(&self) -> Vec<Task> {
        self.0.spawned.take()
    }
}

impl<F: Future + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let task: Task = Box::pin(async move {
            future.await;
        });
        let task = match self.0.newest.take() {
            Some(progress) => {
                Box::pin(Watched { task, progress, common: self.0.clone(), stalled: None }) as Task
            }
            None => task,
        };
        self.0.spawned.borrow_mut().push(task);
    }
}

/// A stream's task, which is dropped when its client takes nothing: hyper then resets the stream.
struct Watched {
    task: Task,
    progress: Rc<Progress>,
    common: Rc<Common>,
    /// How far it was, and until when it may stay there.
    stalled: Option<(u64, Pin<Box<dyn Sleep>>)>,
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.task.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if !this.progress.is_owed.get() {
            this.stalled = None;
            return Poll::Pending;
        }
        let (asked, common) = (this.progress.asked.get(), &this.common);
        let (clock, time) = (&common.clock, common.stalled_timeout);
        if this.stalled.as_ref().is_none_or(|(at, _)| *at != asked) {
            this.stalled = Some((asked, clock.sleep(time)));
        }
        while let Some((_, sleep)) = &mut this.stalled {
            ready!(sleep.as_mut().poll(context));
            match common.census.behind.get() {
                // All streams wait for a slow client then: none is to blame alone.
                Some(behind) if clock.tick().since(behind) < time => {
                    this.stalled = Some((asked, clock.sleep(time)));
                }
                _ => break,
            }
        }
        tracing::debug!(?time, "a stream is reset: its client leaves no window for its answer");
        Poll::Ready(())
    }
}

/// A stream that counts as open.
struct Counted(Rc<Common>, usize);

impl Counted {
    fn new(common: &Rc<Common>, bytes: usize) -> Counted {
        let census = &common.census;
        census.open.set(census.open.get() + 1);
        census.bytes.set(census.bytes.get() + bytes);
        Counted(common.clone(), bytes)
    }

    fn count_panic(&self, panic: &(dyn Any + Send)) {
        misuse::tell(panic);
        let panics = &self.0.census.panics;
        panics.set(panics.get() + 1);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let census = &self.0.census;
        census.open.set(census.open.get() - 1);
        census.bytes.set(census.bytes.get() - self.1);
    }
}

/// The service as hyper calls it.
pub(super) struct Shim<S> {
    pub(super) service: S,
    pub(super) extensions: Extensions,
    pub(super) shutdown: Shutdown,
    pub(super) common: Rc<Common>,
}

impl<S: Answer> hyper::service::Service<Request<Incoming>> for Shim<S> {
    type Response = Response<StreamBody<S::Body>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let common = &self.common;
        let census = &common.census;
        census.requests.set(census.requests.get() + 1);
        let counted = Counted::new(common, STREAM_BYTES + FIELD_BYTES * request.headers().len());
        let progress = Rc::<Progress>::default();
        *common.newest.borrow_mut() = Some(progress.clone());
        let finish = move |answer: Response<Option<S::Body>>, deadline, counted| {
            let body = |body: Option<S::Body>| StreamBody {
                body: body.map(Box::pin),
                rest: Bytes::new(),
                deadline,
                progress,
                counted,
            };
            Ok(answer.map(body))
        };
        if census.is_exhausted.get() {
            census.refused.set(census.refused.get() + 1);
            return Box::pin(std::future::ready(finish(
                failed(StatusCode::SERVICE_UNAVAILABLE),
                None,
                counted,
            )));
        }
        let service = self.service.clone();
        let (mut parts, incoming) = request.into_parts();
        let mut deadline = Deadline::of(&parts.headers, common.grpc_timeout_max, &common.clock);
        // Calls have the time that their client gives them, and so have streams that are given over (RFC 8441).
        let is_patient = grpc::is_call(&parts.headers) || parts.method == http::Method::CONNECT;
        let arrivals = Arc::<AtomicU64>::default();
        let patience = (!is_patient).then(|| (common.clock.clone(), common.body_timeout, arrivals.clone()));
        parts.extensions.extend(self.extensions.clone());
        let notices = Notices::new(&self.shutdown);
        parts.extensions.insert(notices.clone());
        let leaving = Leaving(Some(notices));
        let request = Request::from_parts(parts, Body::streamed(incoming, patience));
        let common = common.clone();
        Box::pin(async move {
            let is_begun = Cell::new(false);
            let mut calling = pin!(call(service, request, || is_begun.set(true)));
            let mut patience: Option<(u64, Pin<Box<dyn Sleep>>)> = None;
            let end = poll_fn(|context| {
                if let Some(deadline) = &mut deadline
                    && deadline.is_over(context)
                {
                    return Poll::Ready(End::Late(deadline.answer()));
                }
                match catch_unwind(AssertUnwindSafe(|| calling.as_mut().poll(context))) {
                    Err(panic) => return Poll::Ready(End::Panicked(panic)),
                    Ok(Poll::Ready(answer)) => return Poll::Ready(End::Answered(answer)),
                    Ok(Poll::Pending) if is_patient && is_begun.get() => return Poll::Pending,
                    Ok(Poll::Pending) => {}
                }
                // The time in which its body arrives is the client's.
                let arrived = arrivals.load(Relaxed);
                if patience.as_ref().is_none_or(|(at, _)| *at != arrived) {
                    patience = Some((arrived, common.clock.sleep(common.handler_timeout)));
                }
                if let Some((_, sleep)) = &mut patience {
                    ready!(sleep.as_mut().poll(context));
                }
                let why = if is_begun.get() { &common.census.took_long } else { &common.census.not_ready };
                why.set(true);
                Poll::Ready(End::Late(failed(StatusCode::SERVICE_UNAVAILABLE)))
            })
            .await;
            let answer = match end {
                // Whoever works for this client elsewhere is told as if it had left.
                End::Late(answer) => return finish(answer, None, counted),
                End::Answered(Ok(answer)) => answer,
                End::Answered(Err(error)) => {
                    tracing::debug!(error = &*error, "a service failed: the answer is 500");
                    failed(StatusCode::INTERNAL_SERVER_ERROR)
                }
                End::Panicked(panic) => {
                    counted.count_panic(&*panic);
                    failed(StatusCode::INTERNAL_SERVER_ERROR)
                }
            };
            leaving.stays();
            finish(answer, deadline, counted)
        })
    }
}

/// What becomes of a request.
enum End<B> {
    Answered(Result<Response<Option<B>>, BoxError>),
    Panicked(Box<dyn Any + Send>),
    /// Its time is over: what its client is told.
    Late(Response<Option<B>>),
}

/// Tells a request's client to have left when the stream goes before it is answered.
struct Leaving(Option<Notices>);

impl Leaving {
    fn stays(mut self) {
        self.0 = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|notices| notices.peer().leave());
    }
}

fn failed<B>(status: StatusCode) -> Response<Option<B>> {
    let mut response = Response::new(None);
    *response.status_mut() = status;
    response
}

/// The body of an answer, in pieces: its stream counts as open as long as it is there.
pub(super) struct StreamBody<B> {
    body: Option<Pin<Box<B>>>,
    /// What is left of a frame.
    rest: Bytes,
    deadline: Option<Deadline>,
    progress: Rc<Progress>,
    counted: Counted,
}

impl<B: http_body::Body> StreamBody<B>
where
    B::Error: Into<BoxError>,
{
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.is_over(context)
        {
            let last = deadline.last_frame();
            (self.body, self.rest, self.deadline) = (None, Bytes::new(), None);
            return Poll::Ready(Some(Ok(last)));
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(context))) {
            Ok(Poll::Ready(Some(Ok(frame)))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(mut data) => {
                    self.rest = data.copy_to_bytes(data.remaining());
                    self.piece()
                }
                Err(frame) => Frame::trailers(frame.into_trailers().unwrap_or_default()),
            }))),
            Ok(Poll::Ready(Some(Err(error)))) => Poll::Ready(Some(Err(error.into()))),
            Ok(Poll::Ready(None)) => Poll::Ready(None),
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => {
                self.counted.count_panic(&*panic);
                self.body = None;
                Poll::Ready(Some(Err("the body panicked".into())))
            }
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(PIECE_BYTES)))
    }
}

impl<B: http_body::Body> http_body::Body for StreamBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.next(context);
        let progress = &self.progress;
        progress.asked.set(progress.asked.get() + 1);
        progress.is_owed.set(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    /// Asked for before the first frame, when nothing is left of one.
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), |body| body.size_hint())
    }
}
