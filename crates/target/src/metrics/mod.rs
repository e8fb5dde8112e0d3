//! `GET /metrics` over HTTP/1.1, for a monitoring system.
//!
//! It shares its process with the I/O, so it is kept small: four connections at a time (others are closed at once), one request
//! each, ten seconds for all of it, a header of at most 8 KiB. The text is made on a thread for blocking work, one at a
//! time. An address that cannot be listened on keeps no volume from being served: it is logged and tried again.

pub(crate) mod text;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

/// Connections at a time: two monitoring systems and somebody who looks.
const CONNECTIONS: usize = 4;
/// For a request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the header of the request.
const HEADER: Duration = Duration::from_secs(5);
/// hyper takes no less.
const BUFFER: usize = 8 * 1024;
/// Between attempts to listen, and after a failed accept.
const PAUSE: Duration = Duration::from_secs(5);

/// Makes the text.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// The same for all connections.
struct Source {
    render: Render,
    /// One text at a time.
    busy: Mutex<()>,
}

/// Serves until it is dropped.
pub async fn serve(address: SocketAddr, render: Render) {
    let listener = listen(address).await;
    let source = Arc::new(Source { render, busy: Mutex::default() });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Aborted when this is dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let source = source.clone();
                        connections.spawn(async move {
                            _ = timeout(PATIENCE, answer(stream, source)).await;
                            drop(place);
                        });
                    }
                    Err(_) => tracing::debug!(%peer, "too many ask for metrics at once"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                return listener;
            }
            Err(error) if !told => {
                tracing::error!(%address, %error, "metrics cannot be served there; volumes are. Free the port or change --metrics");
                told = true;
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn answer(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(respond(&request, &source).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request for metrics failed");
    }
}

async fn respond(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "There is only /metrics here.\n".into());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET.\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let _one_at_a_time = source.busy.lock().await;
    let render = source.render.clone();
    match tokio::task::spawn_blocking(move || render()).await {
        Ok(text) => plain(StatusCode::OK, text),
        Err(error) => {
            tracing::error!(%error, "making the metrics failed");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "See the target's log.\n".into())
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
