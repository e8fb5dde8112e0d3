//! Where a process listens: a TCP address, or a unix socket when all live on one machine.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::Channel;

/// Flow-control windows. The defaults of HTTP/2 (64 KiB) would stop a stream after half of one 128 KiB write.
pub(crate) const STREAM_WINDOW: u32 = 8 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;

/// The longest path that fits into a `sockaddr_un` with its final zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// The address of a gRPC server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `unix:/path/to/socket`
    Unix(PathBuf),
    /// `host:port`; an IPv6 address stands in brackets, `[::]` listens on all addresses
    Tcp(String),
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Neither form.
    #[error("`{0}` is no address: write `unix:/path`, `host:port` or `[ipv6]:port`")]
    Form(String),
    /// The operating system's limit.
    #[error("the socket path {path} has {len} bytes, at most {MAX_SOCKET_PATH} are possible: use a shorter directory")]
    TooLong {
        /// The path.
        path: String,
        /// Its length.
        len: usize,
    },
    /// No connection.
    #[error("{0}")]
    Transport(#[from] tonic::transport::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Cannot listen there.
    #[error("cannot listen on {endpoint}: {source}")]
    Listen {
        /// Where.
        endpoint: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.len() > MAX_SOCKET_PATH {
                return Err(EndpointError::TooLong { path: path.to_owned(), len: path.len() });
            }
            if path.is_empty() {
                return Err(EndpointError::Form(text.to_owned()));
            }
            return Ok(Self::Unix(path.into()));
        }
        let address = text.strip_prefix("http://").unwrap_or(text);
        match address.rsplit_once(':') {
            Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => Ok(Self::Tcp(address.to_owned())),
            _ => Err(EndpointError::Form(text.to_owned())),
        }
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets (RFC 3986, section 3.2.2).
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']', '/', '@']),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl Endpoint {
    /// Opens a connection.
    pub async fn connect(&self) -> Result<Channel, EndpointError> {
        let uri = match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tcp(address) => format!("http://{address}"),
        };
        let endpoint = tonic::transport::Endpoint::from_shared(uri)?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .tcp_nodelay(true)
            // A peer that hangs without closing its socket is given up after this, not after TCP's quarter of an hour.
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        Ok(endpoint.connect().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_parse_and_print() {
        for text in
            ["unix:/run/ballast/pool-0.sock", "127.0.0.1:7000", "pool-0.ballast.svc:7000", "0.0.0.0:7000", "[::]:7000"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///a".parse::<Endpoint>().unwrap(), Endpoint::Unix("/a".into()));
        assert_eq!("http://h:1".parse::<Endpoint>().unwrap(), Endpoint::Tcp("h:1".into()));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        for text in ["", "unix:", "nohost", ":1", "h:", "h:99999", "::1:7000", "[::1]", "[x]:1", "a/b:1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(120));
        assert!(matches!(long.parse::<Endpoint>(), Err(EndpointError::TooLong { .. })));
    }
}
