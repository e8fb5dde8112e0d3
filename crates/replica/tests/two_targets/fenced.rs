//! What becomes of a target that has lost its volume.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use ballast_api::{BlockCount, TargetId};
use ballast_target::volume::{RaftVolume, VolumeOptions, VolumeState};
use ballast_target::{BlockDevice, DeviceError};

use crate::net::{Net, POOLS, Strike};
use crate::support::{Group, VOLUME_BLOCKS};

/// What is waited for happens at once, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A target with one thread of its own: says when it is open and when it is fenced, and then whenever it is asked.
fn alone(options: VolumeOptions, say: Sender<&'static str>, asked: Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let volume = RaftVolume::open(options);
        volume.load_state().await.unwrap();
        _ = say.send("open");
        while volume.stats().state != VolumeState::Fenced {
            assert!(matches!(volume.read(0, 4096).await, Ok(_) | Err(DeviceError::Fenced)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        _ = say.send("fenced");
        while asked.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            _ = say.send("awake");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_target_rests_when_its_connection_ends() {
    let mut group = Group::new(POOLS).await;
    let net = Net::around(&mut group).await;
    let options = VolumeOptions {
        volume: group.volume,
        name: "fenced".to_owned(),
        blocks: BlockCount(VOLUME_BLOCKS),
        target: TargetId::random(),
        replicas: net.ways_of_host(0),
        io_wait: PATIENCE,
    };
    let (say, said) = mpsc::channel();
    let (ask, asked) = mpsc::channel();
    let thread = std::thread::spawn(move || alone(options, say, asked));
    let said = move || said.recv_timeout(PATIENCE);
    assert_eq!(said(), Ok("open"));
    let (_, newer) = group.open(TargetId::random(), true).await;
    assert_eq!(said(), Ok("fenced"));
    (0..POOLS).for_each(|pool| net.strike_host(0, pool, Strike::Cut));
    // It has heard of the end of its connection long before the last of these, and its thread still does other things.
    for _ in 0..200 {
        assert_eq!(said(), Ok("awake"), "the fenced target leaves its thread to nobody else");
    }
    drop(ask);
    thread.join().unwrap();
    drop(newer);
    group.stop().await;
}
