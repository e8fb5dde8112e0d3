//! Hints at start: files that say what SetPeers and SetVolumes said last, so that a restarted process finds its peers or
//! its volumes while nobody is there to tell it. In a cluster they are mounted from ConfigMaps.
//!
//! ```json
//! {"peers": [{"pool": "6f0c…-uuid", "endpoint": "pool-a.storage.svc:7000"}]}
//!
//! {"volumes": [{"volume": "9b1d…-uuid", "name": "db", "iqn": "iqn.2016-09.com.openebs.cstor:db", "blocks": 262144,
//!               "replicas": [{"pool": "6f0c…-uuid", "endpoint": "pool-a.storage.svc:7000"}]}]}
//! ```
//! Ids are uuids, endpoints `host:port` or `unix:/path`, `blocks` counts 4 KiB. Fields that are not known are passed over: a
//! newer control plane may write more.
//!
//! A hint is never needed and never the last word: a missing file is no hint, a malformed one is an error in the log, and the
//! process starts either way and waits to be told.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ballast_api::control::{Peer as WirePeer, TargetVolume};
use ballast_api::{PoolId, VolumeId};
use ballast_rpc::{Endpoint, EndpointError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A file that gives no hint.
#[derive(Debug, thiserror::Error)]
enum HintError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{} is malformed: {source}; see `--help` for its form", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// An address is wrong.
    #[error("{}: {source}", path.display())]
    Endpoint {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: EndpointError,
    },
}

#[derive(Deserialize)]
struct PeersFile {
    peers: Vec<Peer>,
}

#[derive(Deserialize)]
struct VolumesFile {
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Peer {
    pool: PoolId,
    endpoint: String,
}

#[derive(Deserialize)]
struct Volume {
    volume: VolumeId,
    name: String,
    iqn: String,
    blocks: u64,
    replicas: Vec<Peer>,
}

/// The other pools.
pub(crate) fn peers(path: Option<&Path>) -> Vec<(PoolId, Endpoint)> {
    told(path, |path| {
        let Some(file) = read::<PeersFile>(path)? else { return Ok(None) };
        let peers = file.peers.iter().map(|peer| Ok((peer.pool, endpoint(path, peer)?)));
        peers.collect::<Result<_, _>>().map(Some)
    })
    .unwrap_or_default()
}

/// The volumes of a target; `None` when nothing says which these are.
pub(crate) fn volumes(path: Option<&Path>) -> Option<Vec<TargetVolume>> {
    told(path, |path| {
        let Some(file) = read::<VolumesFile>(path)? else { return Ok(None) };
        file.volumes.into_iter().map(|volume| wire(path, volume)).collect::<Result<_, _>>().map(Some)
    })
}

fn wire(path: &Path, volume: Volume) -> Result<TargetVolume, HintError> {
    let replica =
        |peer: &Peer| Ok(WirePeer { pool: peer.pool.to_bytes(), endpoint: endpoint(path, peer)?.to_string() });
    Ok(TargetVolume {
        volume: volume.volume.to_bytes(),
        replicas: volume.replicas.iter().map(replica).collect::<Result<_, _>>()?,
        name: volume.name,
        iqn: volume.iqn,
        blocks: volume.blocks,
    })
}

fn endpoint(path: &Path, peer: &Peer) -> Result<Endpoint, HintError> {
    peer.endpoint.parse().map_err(|source| HintError::Endpoint { path: path.to_owned(), source })
}

/// Reads a hint and says in the log what came of it.
fn told<T>(path: Option<&Path>, read: impl FnOnce(&Path) -> Result<Option<T>, HintError>) -> Option<T> {
    let path = path?;
    match read(path) {
        Ok(Some(hint)) => {
            tracing::info!(file = %path.display(), "starting with hints");
            Some(hint)
        }
        Ok(None) => {
            tracing::info!(file = %path.display(), "no hints: the file does not exist");
            None
        }
        Err(error) => {
            tracing::error!(%error, "starting without hints");
            None
        }
    }
}

/// `None`: there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HintError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HintError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| HintError::Form { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "6f0c3a52-9d1e-4d0f-8a55-0a4a6f1a7c11";
    const VOLUME: &str = "9b1d1c86-30c5-4ad7-9f4c-6f3c1e0b8f7a";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn what_they_say_is_what_set_peers_and_set_volumes_would_say() {
        let said = file(&format!(
            r#"{{"peers": [{{"pool": "{POOL}", "endpoint": "pool-a.storage.svc:7000", "zone": "new"}}], "version": 2}}"#
        ));
        let peers = peers(Some(said.path()));
        assert_eq!(peers, [(POOL.parse().unwrap(), Endpoint::Tcp("pool-a.storage.svc:7000".into()))]);

        let said = file(&format!(
            r#"{{"volumes": [{{"volume": "{VOLUME}", "name": "db", "iqn": "iqn.2016-09.com.openebs.cstor:db",
                 "blocks": 262144, "replicas": [{{"pool": "{POOL}", "endpoint": "http://[fd00::1]:7000"}}]}}]}}"#
        ));
        let volumes = volumes(Some(said.path())).unwrap();
        let expected = TargetVolume {
            volume: VOLUME.parse::<VolumeId>().unwrap().to_bytes(),
            name: "db".into(),
            iqn: "iqn.2016-09.com.openebs.cstor:db".into(),
            blocks: 262_144,
            replicas: vec![WirePeer {
                pool: POOL.parse::<PoolId>().unwrap().to_bytes(),
                endpoint: "[fd00::1]:7000".into(),
            }],
        };
        assert_eq!(volumes, [expected]);
    }

    #[test]
    fn no_volumes_is_something_else_than_no_hint() {
        assert_eq!(volumes(Some(file(r#"{"volumes": []}"#).path())), Some(Vec::new()));
        assert_eq!(volumes(None), None);
        assert_eq!(volumes(Some(Path::new("/nonexistent/volumes.json"))), None);
        assert!(peers(Some(Path::new("/nonexistent/peers.json"))).is_empty());
    }

    #[test]
    fn a_malformed_file_says_what_is_wrong() {
        let wrong = |text: &str| {
            let file = file(text);
            let read = read::<PeersFile>(file.path())
                .and_then(|read| read.unwrap().peers.iter().try_for_each(|peer| endpoint(file.path(), peer).map(drop)));
            assert!(peers(Some(file.path())).is_empty(), "it starts without");
            read.unwrap_err().to_string()
        };
        assert!(wrong("").contains("malformed"));
        assert!(wrong("{\"peers\": [").contains("line 1"));
        assert!(wrong(r#"{"volumes": []}"#).contains("peers"));
        assert!(wrong(r#"{"peers": [{"pool": "7", "endpoint": "h:1"}]}"#).contains("malformed"));
        let text = wrong(&format!(r#"{{"peers": [{{"pool": "{POOL}", "endpoint": "nohost"}}]}}"#));
        assert!(text.contains("nohost") && text.contains("host:port"), "{text}");
    }
}
