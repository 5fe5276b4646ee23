//! One TLS connection: its HTTP/1.1 exchange, its time-outs, and the means to cut it in the middle
//! of an answer, which HTTP libraries rightly do not offer.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Serves a connection until either side ends it. A client that goes away, or never speaks TLS, is
/// normal and not worth more than a trace.
pub(crate) async fn serve(
    socket: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    mut stage: watch::Receiver<Stage>,
) {
    // Answers are small and written at once; waiting for more to send would only add latency.
    let _ = socket.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket));
    let stream = tokio::select! {
        accepted = handshake => match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return tracing::trace!(error = %e, "TLS handshake failed"),
            Err(_) => return tracing::trace!("TLS handshake timed out"),
        },
        _ = stage.wait_for(|s| *s != Stage::Running) => return,
    };
    let cut = Arc::new(Cut::default());
    let io = TokioIo::new(CuttableStream { inner: stream, cut: cut.clone() });
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(cut.clone());
        let answer = router.call(request);
        let cut = cut.clone();
        async move {
            let answer: Result<Response<Body>, Infallible> = answer.await;
            if cut.is_asked_for() && cut.no_answer.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            Ok(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(MAX_HEADERS)
            .serve_connection(io, service)
    );
    let mut draining = false;
    loop {
        tokio::select! {
            // The end first: what is let go at it is not answered.
            biased;
            // An error means that the server is gone.
            changed = stage.wait_for(|s| if draining { *s == Stage::Stopped } else { *s != Stage::Running }) => {
                let now = changed.map_or(Stage::Stopped, |s| *s);
                if now == Stage::Stopped {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                draining = true;
            }
            ended = connection.as_mut() => {
                if let Err(e) = ended {
                    tracing::trace!(error = %e, "connection ended");
                }
                return;
            }
        }
    }
}

/// How far the server's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// No new connections; requests under way are finished.
    Draining,
    /// Whatever is left is dropped.
    Stopped,
}

/// A connection's order to break off. Set by a fault, obeyed by the stream once everything that was
/// handed to it before is on the wire.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    asked_for: AtomicBool,
    no_answer: AtomicBool,
}

impl Cut {
    /// No byte of the answer shall go out.
    pub(crate) fn before_answer(&self) {
        self.no_answer.store(true, Ordering::Relaxed);
        self.asked_for.store(true, Ordering::Release);
    }

    /// A body that promises all of `whole` and ends the connection after `keep` bytes of it.
    pub(crate) fn body(self: &Arc<Self>, whole: Bytes, keep: usize) -> CutBody {
        let promised = whole.len() as u64;
        CutBody { rest: Some(whole.slice(..keep.min(whole.len()))), promised, cut: self.clone() }
    }

    fn is_asked_for(&self) -> bool {
        self.asked_for.load(Ordering::Acquire)
    }
}

/// See [`Cut::body`].
#[derive(Debug)]
pub(crate) struct CutBody {
    rest: Option<Bytes>,
    promised: u64,
    cut: Arc<Cut>,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.cut.asked_for.store(true, Ordering::Release);
        match self.rest.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // Never woken: the flush of what went before ends the connection.
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}

/// A TLS stream that breaks off on order: without `close_notify`, so that the client can tell a cut
/// from an end.
struct CuttableStream {
    inner: TlsStream<TcpStream>,
    cut: Arc<Cut>,
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = std::task::ready!(Pin::new(&mut self.inner).poll_flush(cx));
        if self.cut.is_asked_for() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut.is_asked_for() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of a request, the first or the next one on a connection kept alive.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 64 * 1024;
