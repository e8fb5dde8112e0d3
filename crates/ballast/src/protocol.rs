//! How the command line talks to a running `ballast up`: one JSON line there, one back, over `DIR/run/ballast.sock`.
//!
//! ```text
//! {"version":1,"body":{"create_volume":{"name":"demo","bytes":1073741824,"replicas":3}}}
//! {"version":1,"body":{"created":{"served":true}}}
//! ```
//! The version changes when an old program would misunderstand a new one; then both sides say so. Access is guarded
//! by the mode of `DIR/run` (0700).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::cluster::{Cluster, NewVolume};
use crate::datadir::DataDir;
use crate::names::VolumeName;
use crate::report::StatusReport;

const VERSION: u32 = 1;
/// Name of the supervisor's own socket.
const SUPERVISOR: &str = "ballast";
/// Longest request: a name and some numbers.
const LONGEST_REQUEST: u64 = 64 << 10;
/// Longest answer: thousands of volumes.
const LONGEST_ANSWER: u64 = 64 << 20;
/// A client that connects and says nothing is let go.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the longest change: one call to a pool, and as long again to undo it, behind another change.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// Only the version: read first, so that the body of another version is never interpreted.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// All there is to know.
    Status,
    /// Make a volume.
    CreateVolume {
        /// Its name.
        name: VolumeName,
        /// Its size.
        bytes: u64,
        /// Its replicas; none for the default.
        replicas: Option<usize>,
    },
    /// Make a volume larger.
    GrowVolume {
        /// Its name.
        name: VolumeName,
        /// Its new size.
        bytes: u64,
    },
    /// Delete a volume.
    DeleteVolume {
        /// Its name.
        name: VolumeName,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// All there is to know.
    Status(Box<StatusReport>),
    /// The volume was made.
    Created {
        /// Whether the target serves it already.
        served: bool,
    },
    /// The volume has its new size.
    Grown {
        /// Whether the target knows already.
        served: bool,
    },
    /// The volume is deleted.
    Deleted {
        /// Whether all its replicas are gone; the others go when their pools come back.
        complete: bool,
    },
    /// It was not done, and why.
    Failed {
        /// For the user.
        message: String,
    },
}

/// The conversation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// Nobody listens.
    #[error("no ballast runs on {}: start it with `ballast up --data-dir {}`", .0.display(), .0.display())]
    NotRunning(PathBuf),
    /// The socket failed.
    #[error("cannot talk to the ballast that runs on {}: {source}; is it being stopped?", path.display())]
    Io {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another version of the program.
    #[error(
        "the other side speaks version {0} of the protocol, this program version {VERSION}: use the same ballast for both"
    )]
    Version(u32),
    /// Not our protocol.
    #[error("the other side does not speak this protocol ({0}): use the same ballast for both")]
    Garbled(String),
    /// No answer.
    #[error("the running ballast has not answered within {} s: look at `ballast status` and at its output", .0.as_secs())]
    Timeout(Duration),
    /// It was not done.
    #[error("{0}")]
    Failed(String),
}

/// Asks the ballast that runs on `dir`.
pub(crate) async fn ask(dir: &DataDir, request: &Request) -> Result<Response, ProtocolError> {
    let io = |source| ProtocolError::Io { path: dir.root().to_owned(), source };
    let conversation = async {
        let stream = UnixStream::connect(dir.socket(SUPERVISOR)).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ProtocolError::NotRunning(dir.root().to_owned())
            }
            _ => io(error),
        })?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(&encode(request)?).await.map_err(io)?;
        let mut line = Vec::new();
        BufReader::new(reader.take(LONGEST_ANSWER)).read_until(b'\n', &mut line).await.map_err(io)?;
        decode(&line)
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, conversation).await {
        Ok(Ok(Response::Failed { message })) => Err(ProtocolError::Failed(message)),
        Ok(result) => result,
        Err(_) => Err(ProtocolError::Timeout(ANSWER_TIMEOUT)),
    }
}

/// The supervisor's side; the socket is removed when it is dropped.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens in `dir`, whose lock the caller holds: what is there under the name is left over.
    pub(crate) fn bind(dir: &DataDir) -> io::Result<Self> {
        let path = dir.socket(SUPERVISOR);
        remove_socket(&path)?;
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Answers, each connection for itself, until dropped.
    pub(crate) async fn serve(self, cluster: Arc<Cluster>) {
        let mut clients = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(answer(stream, Arc::clone(&cluster)));
                    }
                    Err(error) => {
                        // Out of file descriptors, for example: not a reason to spin.
                        tracing::warn!(%error, "cannot accept a connection from a command");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = remove_socket(&self.path) {
            tracing::debug!(%error, "the socket is left over");
        }
    }
}

/// Removes a socket that nobody serves any more.
pub(crate) fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn answer(stream: UnixStream, cluster: Arc<Cluster>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(LONGEST_REQUEST));
    let read = tokio::time::timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await;
    if !matches!(read, Ok(Ok(n)) if n > 0) {
        return;
    }
    let response = match decode(&line) {
        // A change goes on when the client hangs up: this task waits for nothing from it.
        Ok(request) => handle(request, &cluster).await,
        Err(error) => Response::Failed { message: error.to_string() },
    };
    let sent = match encode(&response) {
        Ok(line) => writer.write_all(&line).await,
        Err(error) => Err(io::Error::other(error)),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "a command went away before its answer");
    }
}

async fn handle(request: Request, cluster: &Cluster) -> Response {
    let failed = |error: crate::cluster::VolumeError| Response::Failed { message: error.to_string() };
    match request {
        Request::Status => Response::Status(Box::new(cluster.status().await)),
        Request::CreateVolume { name, bytes, replicas } => {
            let created = cluster.create_volume(NewVolume { name, bytes, replicas }).await;
            created.map_or_else(failed, |served| Response::Created { served })
        }
        Request::GrowVolume { name, bytes } => {
            cluster.grow_volume(&name, bytes).await.map_or_else(failed, |served| Response::Grown { served })
        }
        Request::DeleteVolume { name } => {
            cluster.delete_volume(&name).await.map_or_else(failed, |complete| Response::Deleted { complete })
        }
    }
}

fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, ProtocolError> {
    let envelope = Envelope { version: VERSION, body };
    let mut line = serde_json::to_vec(&envelope).map_err(|error| ProtocolError::Garbled(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, ProtocolError> {
    let garbled = |error: serde_json::Error| ProtocolError::Garbled(error.to_string());
    let VersionOnly { version } = serde_json::from_slice(line).map_err(garbled)?;
    if version != VERSION {
        return Err(ProtocolError::Version(version));
    }
    let envelope: Envelope<T> = serde_json::from_slice(line).map_err(garbled)?;
    Ok(envelope.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let request = Request::CreateVolume { name: "demo".parse().unwrap(), bytes: 5, replicas: None };
        let line = encode(&request).unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        let text = r#"{"version":1,"body":{"create_volume":{"name":"demo","bytes":5,"replicas":null}}}"#;
        assert_eq!(String::from_utf8(line.clone()).unwrap().trim_end(), text);
        assert!(matches!(decode::<Request>(&line), Ok(Request::CreateVolume { bytes: 5, .. })));
    }

    #[test]
    fn other_versions_and_other_things_are_told_apart() {
        let newer = br#"{"version":2,"body":{"something_new":{}}}"#;
        assert!(matches!(decode::<Request>(newer), Err(ProtocolError::Version(2))));
        for line in ["", "GET / HTTP/1.1\r\n", "{}", r#"{"version":1,"body":{"create_volume":{"name":"No!"}}}"#] {
            assert!(matches!(decode::<Request>(line.as_bytes()), Err(ProtocolError::Garbled(_))), "{line}");
        }
    }

    #[tokio::test]
    async fn nobody_there() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path()).unwrap();
        assert!(matches!(ask(&dir, &Request::Status).await, Err(ProtocolError::NotRunning(_))));
        // A socket that a killed supervisor left behind.
        dir.create().unwrap();
        drop(UnixListener::bind(dir.socket(SUPERVISOR)).unwrap());
        let error = ask(&dir, &Request::Status).await.unwrap_err();
        assert!(error.to_string().contains("ballast up --data-dir"), "{error}");
    }
}
