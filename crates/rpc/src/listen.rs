//! The serving side.

use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;

use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::{Router, Server};

use crate::endpoint::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::{Endpoint, EndpointError};

/// Largest HTTP/2 frame we accept: a whole 128 KiB write with its headers, instead of nine frames of 16 KiB.
const MAX_FRAME: u32 = 1 << 20;

/// A gRPC server with windows and frames fit for blocks.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .tcp_nodelay(true)
}

/// A bound socket.
pub enum Listener {
    /// A unix socket; its file is removed when the server ends.
    Unix(UnixListener, PathBuf),
    /// A TCP socket.
    Tcp(TcpListener),
}

impl Listener {
    /// Binds. A socket file that a killed process left behind is replaced: the caller holds the lock that shows that
    /// no other process serves here.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, EndpointError> {
        let failed = |source| EndpointError::Listen { endpoint: endpoint.to_string(), source };
        match endpoint {
            Endpoint::Unix(path) => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                    Ok(()) | Err(_) => {}
                }
                Ok(Self::Unix(UnixListener::bind(path).map_err(failed)?, path.clone()))
            }
            Endpoint::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.map_err(failed)?)),
        }
    }

    /// Serves until `stop` resolves and the open streams have ended.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) -> Result<(), tonic::transport::Error> {
        match self {
            Self::Unix(listener, path) => {
                let result = router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop).await;
                _ = std::fs::remove_file(path);
                result
            }
            Self::Tcp(listener) => router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use super::*;

    fn free_port(ip: IpAddr) -> std::io::Result<u16> {
        Ok(std::net::TcpListener::bind(SocketAddr::new(ip, 0))?.local_addr()?.port())
    }

    #[tokio::test]
    async fn all_addresses_of_either_family_can_be_listened_on() {
        let v4 = ("0.0.0.0", IpAddr::V4(Ipv4Addr::LOCALHOST), "127.0.0.1");
        let v6 = ("[::]", IpAddr::V6(Ipv6Addr::LOCALHOST), "[::1]");
        for (all, loopback, name) in [v4, v6] {
            // A machine may have no IPv6.
            let Ok(port) = free_port(loopback) else { continue };
            let listener = Listener::bind(&format!("{all}:{port}").parse().unwrap()).await.unwrap();
            let Listener::Tcp(socket) = &listener else { panic!("{all}") };
            assert!(socket.local_addr().unwrap().ip().is_unspecified());
            // Connecting ends with an answer of the server, so it must be there.
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let router = server().add_routes(tonic::service::Routes::default());
            let serving = tokio::spawn(listener.serve(router, async move { _ = stopped.await }));
            let endpoint: Endpoint = format!("{name}:{port}").parse().unwrap();
            drop(endpoint.connect().await.unwrap());
            stop.send(()).unwrap();
            serving.await.unwrap().unwrap();
        }
    }
}
