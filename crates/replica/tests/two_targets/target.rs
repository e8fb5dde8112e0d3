//! A target process in small: the client of the volume and those who use it, who note everything that they ask and hear.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ballast_api::{BLOCK_SIZE, BlockCount, TargetId, VolumeId};
use ballast_target::volume::{RaftVolume, VolumeOptions, VolumeState};
use ballast_target::{BlockDevice, DeviceError};
use bytes::BytesMut;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::history::{Call, Event, History, Moment, Register, Value, contents, state, value_of, value_of_state};
use crate::net::Net;
use crate::random::Random;
use crate::support::VOLUME_BLOCKS;

/// Blocks that are used: few, so that what one target writes is soon read and written over by another.
pub const BLOCKS: u64 = 8;
/// Blocks in one call.
const MOST: u64 = 3;
/// Who uses a target at the same time.
const USERS: u64 = 8;
/// Everything a target is asked is answered after its `io_wait`; when it is not after this, it never will be.
const PATIENCE: Duration = Duration::from_secs(60);

const BLOCK: u64 = BLOCK_SIZE as u64;

pub struct Target {
    pub number: usize,
    pub host: usize,
    volume: Arc<RaftVolume>,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    /// Moment of the first answer, 0 before.
    open: Arc<AtomicU64>,
}

impl Target {
    /// A new process on this host. Its users do not wait until it has taken the volume over.
    pub fn start(history: &Arc<History>, net: &Net, volume: VolumeId, host: usize, random: &mut Random) -> Self {
        let number = history.new_target();
        let mut replicas = net.ways_of_host(host);
        let turn = random.below(replicas.len() as u64) as usize;
        replicas.rotate_left(turn);
        let begin = history.now();
        let volume = Arc::new(RaftVolume::open(VolumeOptions {
            volume,
            name: format!("target-{number}"),
            blocks: BlockCount(VOLUME_BLOCKS),
            target: TargetId::random(),
            replicas,
            io_wait: Duration::from_millis(300 + random.below(2500)),
        }));
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut target = Self { number, host, volume, history: history.clone(), stop, tasks: Vec::new(), open };
        target.tasks.push(tokio::spawn(load(target.user(random), begin, target.open.clone())));
        for n in 0..USERS {
            let user = target.user(random);
            target.tasks.push(match n {
                0 | 1 => tokio::spawn(keep(user)),
                // Some only read: while no majority is there, writes wait, and their users with them.
                n => tokio::spawn(work(user, n > 3)),
            });
        }
        target
    }

    fn user(&self, random: &mut Random) -> User {
        User {
            target: self.number,
            volume: self.volume.clone(),
            history: self.history.clone(),
            stop: self.stop.clone(),
            random: Random::new(random.next_u64()),
        }
    }

    pub fn is_fenced(&self) -> bool {
        self.volume.stats().state == VolumeState::Fenced
    }

    pub fn leader(&self) -> Option<ballast_api::PoolId> {
        self.volume.stats().leader
    }

    /// Its take-over was answered.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// The newest epoch that it knows as its own.
    pub fn epoch(&self) -> u64 {
        self.volume.stats().epoch.0
    }

    /// Reads all that is used; whether that was answered.
    pub async fn read_all(&self) -> bool {
        let mut user = self.user(&mut Random::new(0));
        let mut answered = true;
        for lba in 0..BLOCKS {
            answered &= user.read(lba, 1).await;
        }
        answered
    }

    /// Lets its users finish what they have begun, and ends it.
    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("everything is answered in bounded time").unwrap();
        }
        self.history.note_epoch(self.number, self.volume.stats().epoch.0);
    }
}

struct User {
    target: usize,
    volume: Arc<RaftVolume>,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    random: Random,
}

impl User {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A little while, longer when there is nothing to win any more.
    async fn pause(&mut self) {
        let fenced = self.volume.stats().state == VolumeState::Fenced;
        let limit = if fenced { 20_000 } else { 4_000 };
        sleep(Duration::from_micros(self.random.below(limit))).await;
    }

    fn note(&self, register: Register, call: Call, begin: Moment, end: Option<Moment>) -> usize {
        self.history.note(Event { target: self.target, register, call, begin, end })
    }

    /// Nothing else can go wrong here than that there is no leader, or a newer owner.
    fn is_answered<T>(&self, result: Result<T, DeviceError>) -> Option<T> {
        match result {
            Ok(answer) => Some(answer),
            Err(DeviceError::Fenced | DeviceError::Unavailable(_)) => None,
            Err(other) => {
                self.history.note_wrong(format!("target {}: {other}", self.target));
                None
            }
        }
    }

    fn parsed(&self, value: Result<Value, String>) -> Option<Value> {
        value.map_err(|what| self.history.note_wrong(format!("target {}: {what}", self.target))).ok()
    }

    async fn write(&mut self, lba: u64, count: u64) {
        let values: Vec<Value> = (0..count).map(|_| self.history.new_value()).collect();
        let mut data = BytesMut::new();
        for (at, value) in values.iter().enumerate() {
            data.extend_from_slice(&contents(lba + at as u64, *value, self.target));
        }
        let begin = self.history.now();
        let note = |(lba, value): (u64, &Value)| self.note(Register::Block(lba), Call::Write(*value), begin, None);
        let events: Vec<usize> = (lba..).zip(&values).map(note).collect();
        let result = self.volume.write(lba * BLOCK, data.freeze(), false).await;
        let end = self.history.now();
        if self.is_answered(result).is_some() {
            events.into_iter().for_each(|event| self.history.note_end(event, end));
        }
    }

    async fn read(&mut self, lba: u64, count: u64) -> bool {
        let begin = self.history.now();
        let result = self.volume.read(lba * BLOCK, (count * BLOCK) as u32).await;
        let end = self.history.now();
        let Some(data) = self.is_answered(result) else { return false };
        for (lba, data) in (lba..).zip(data.chunks(BLOCK_SIZE)) {
            if let Some(value) = self.parsed(value_of(lba, data)) {
                self.note(Register::Block(lba), Call::Read(value), begin, Some(end));
            }
        }
        true
    }
}

/// Reads, and writes.
async fn work(mut user: User, writes: bool) {
    while user.goes_on() {
        let lba = user.random.below(BLOCKS);
        let count = 1 + user.random.below(MOST.min(BLOCKS - lba));
        if writes && user.random.below(3) > 0 {
            user.write(lba, count).await;
        } else {
            user.read(lba, count).await;
        }
        user.pause().await;
    }
}

/// Keeps one state after the other with the volume.
async fn keep(mut user: User) {
    while user.goes_on() {
        let value = user.history.new_value();
        let begin = user.history.now();
        let event = user.note(Register::State, Call::Write(value), begin, None);
        let result = user.volume.save_state(state(value)).await;
        let end = user.history.now();
        if user.is_answered(result).is_some() {
            user.history.note_end(event, end);
        }
        user.pause().await;
    }
}

/// What the targets before this one have kept. It became known at some moment of the take-over.
async fn load(user: User, begin: Moment, open: Arc<AtomicU64>) {
    while user.goes_on() {
        let result = user.volume.load_state().await;
        let end = user.history.now();
        let fenced = result == Err(DeviceError::Fenced);
        if let Some(data) = user.is_answered(result) {
            if let Some(value) = user.parsed(value_of_state(&data)) {
                user.note(Register::State, Call::Read(value), begin, Some(end));
            }
            // The epoch is shown a moment later than the state.
            while user.volume.stats().epoch.0 == 0 {
                tokio::task::yield_now().await;
            }
            user.history.note_epoch(user.target, user.volume.stats().epoch.0);
            open.store(end, Ordering::Release);
            return;
        }
        if fenced {
            return;
        }
    }
}
