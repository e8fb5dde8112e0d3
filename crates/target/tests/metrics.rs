//! What a target process tells monitoring: over HTTP, and by its control service.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ballast_api::control::target_control_client::TargetControlClient;
use ballast_api::control::{LatencyRequest, Peer, TargetVolume};
use ballast_api::{PoolId, VolumeId};
use ballast_rpc::Endpoint;
use ballast_target::volume::serve::{TargetOptions, serve_target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic::transport::Channel;

/// An address that nobody listens on.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A target with one volume whose replica is not there. It ends when the sender is dropped.
async fn start(dir: &Path, metrics: SocketAddr) -> (Channel, VolumeId, oneshot::Sender<()>) {
    let id = VolumeId::random();
    let replica = Peer { pool: PoolId::random().to_bytes(), endpoint: format!("unix:{}/none", dir.display()) };
    let volume = TargetVolume {
        volume: id.to_bytes(),
        name: "demo".to_owned(),
        iqn: "iqn.2016-09.com.openebs.cstor:demo".to_owned(),
        blocks: 1024,
        replicas: vec![replica],
    };
    let control = Endpoint::Unix(dir.join("control.sock"));
    let (stop, stopped) = oneshot::channel::<()>();
    let options = TargetOptions {
        portal: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        chap: None,
        control: control.clone(),
        volumes: Some(vec![volume]),
        metrics: Some(metrics),
        shutdown: Box::pin(async move { _ = stopped.await }),
    };
    tokio::spawn(async move { serve_target(options).await.unwrap() });
    for _ in 0..200 {
        if let Ok(channel) = control.connect().await {
            return (channel, id, stop);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the target does not answer");
}

async fn connect(address: SocketAddr) -> TcpStream {
    for _ in 0..1000 {
        if let Ok(stream) = TcpStream::connect(address).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody listens on {address}");
}

/// Sends something; returns all that comes back.
async fn send(address: SocketAddr, what: &str) -> String {
    let mut stream = connect(address).await;
    // Who is refused may be cut while it sends.
    _ = stream.write_all(what.as_bytes()).await;
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr) -> String {
    send(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await
}

/// The numbers of an answer by series; everything else is an error.
fn parse(answer: &str) -> HashMap<&str, f64> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let mut declared = Vec::new();
    let mut series = HashMap::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let [what, name, text] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            if what == "TYPE" {
                assert!(["gauge", "counter", "histogram"].contains(&text) && !declared.contains(&name), "{line}");
                declared.push(name);
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| family.strip_suffix(part)).unwrap_or(family);
        assert!(declared.last().is_some_and(|last| *last == family || *last == base), "{line}");
        assert!(name.ends_with('}') && name.matches('"').count() % 2 == 0, "{line}");
        assert!(series.insert(name, value.parse().unwrap()).is_none(), "twice: {line}");
    }
    series
}

#[tokio::test]
async fn the_metrics_of_a_target_parse_and_name_every_volume() {
    let dir = tempfile::tempdir().unwrap();
    let address = free().await;
    let (_channel, _, _stop) = start(dir.path(), address).await;
    let answer = get(address).await;
    let series = parse(&answer);
    assert_eq!(series["ballast_volume_state{volume=\"demo\",state=\"opening\"}"], 1.0);
    assert_eq!(series["ballast_volume_size_bytes{volume=\"demo\"}"], 4_194_304.0);
    assert_eq!(series["ballast_volume_sessions{volume=\"demo\"}"], 0.0);
    let counts = series.keys().filter(|name| name.starts_with("ballast_volume_io_seconds_count{"));
    assert_eq!(counts.count(), 15, "three kinds of five stages");
    let all = "ballast_volume_io_seconds_bucket{volume=\"demo\",kind=\"write\",stage=\"replicate\",le=\"+Inf\"}";
    assert_eq!(series[all], 0.0);
}

#[tokio::test]
async fn whoever_asks_badly_is_refused_and_keeps_nobody_else_away() {
    let dir = tempfile::tempdir().unwrap();
    let address = free().await;
    let (_channel, _, _stop) = start(dir.path(), address).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "404"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(), "405"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20_000)), "431"),
    ] {
        let answer = send(address, &request).await;
        // A request that is cut while it is sent may lose its answer.
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || (status == "431" && answer.is_empty()),
            "{answer}"
        );
    }
    // As many as may connect and say nothing: the next one is closed at once, and has its turn when one has gone.
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(connect(address).await);
    }
    assert_eq!(get(address).await, "");
    silent.pop();
    let served = async {
        while get(address).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), served).await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_keeps_no_volume_away_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (channel, id, _stop) = start(dir.path(), address).await;
    let mut control = TargetControlClient::new(channel);
    let mut ask = async |volume: Vec<u8>| {
        let request = LatencyRequest { volume: volume.into() };
        control.latencies(request).await.map(tonic::Response::into_inner)
    };
    let report = ask(Vec::new()).await.unwrap();
    let [volume] = &report.volumes[..] else { panic!("{report:?}") };
    assert_eq!((&*volume.name, volume.stages.len(), report.target.len()), ("demo", 15, 16));
    assert!(volume.stages.iter().all(|stage| stage.buckets.is_empty() && stage.sum_ns == 0));
    assert_eq!(ask(id.to_bytes().to_vec()).await.unwrap(), report);
    assert!(ask(VolumeId::random().to_bytes().to_vec()).await.unwrap().volumes.is_empty());
    assert_eq!(ask(vec![1]).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    drop(taken);
    assert!(parse(&get(address).await).len() > 15);
}
