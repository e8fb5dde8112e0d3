//! Random work on a manual pool, noted in a model.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ballast_api::{BlockCount, Lba};
use ballast_pool::sim::SimDisks;
use ballast_pool::*;
use bytes::Bytes;

use super::model::{Acked, Life, Op, Version, not_acked};
use super::{Rng, mark, ready, volume};

/// The blocks that are used: around a leaf boundary, so that entries touch two leaves.
pub const BLOCKS: [u64; 24] = {
    let mut blocks = [0; 24];
    let mut at = 0;
    while at < 24 {
        blocks[at] = if at < 16 { 504 + at as u64 } else { 2000 + at as u64 };
        at += 1;
    }
    blocks
};
pub const CAPACITY: u64 = 4096;

pub fn options() -> OpenOptions {
    OpenOptions { manual: true, tail_memory: 8192, map_memory: 1 << 16, ..OpenOptions::default() }
}

/// A pool under test and what it must hold.
pub struct Workload {
    pub disks: SimDisks,
    /// How many of the disks are the pool's.
    pub given: usize,
    pub pool: Option<Pool>,
    pub rng: Rng,
    pub lives: Vec<Life>,
    next_life: u64,
    next_tag: u64,
}

impl Workload {
    pub fn new(disks: SimDisks, pool: Pool, seed: u64) -> Self {
        let given = disks.devices().len();
        Self { disks, given, pool: Some(pool), rng: Rng::new(seed), lives: Vec::new(), next_life: 1, next_tag: 1 }
    }

    fn pool(&self) -> Pool {
        self.pool.clone().unwrap()
    }

    fn now(&self) -> usize {
        self.disks.events()
    }

    fn ack(&self, acked: &Acked) {
        acked.store(self.now(), Ordering::Relaxed);
    }

    fn live(&self, volume: u8) -> Option<usize> {
        self.lives.iter().position(|life| life.volume == volume && life.deleted.is_none())
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    pub fn create(&mut self, n: u8) {
        let number = self.next_life;
        self.next_life += 1;
        let life = Life::new(n, number, self.now());
        let user = Bytes::copy_from_slice(&number.to_le_bytes());
        let config = ReplicaConfig { blocks: BlockCount(CAPACITY), user };
        ready(self.pool().create_replica(volume(n), config)).unwrap();
        self.ack(&life.created.1);
        self.lives.push(life);
    }

    /// One random step.
    pub fn step(&mut self) {
        let n = 1 + self.rng.below(3) as u8;
        let Some(at) = self.live(n) else { return self.create(n) };
        let replica = self.pool().replica(volume(n)).unwrap();
        match self.rng.below(100) {
            0..34 => self.append(at, &replica),
            34..52 => drop(self.pool().write_batch().unwrap()),
            52..70 => self.apply(at, &replica),
            70..78 => self.purge(at, &replica),
            78..83 => self.truncate(at, &replica),
            83..88 => self.vote(at, &replica),
            88..95 => self.checkpoint(),
            95..97 => self.install(at, &replica),
            97 => self.reopen(),
            _ => self.delete(at),
        }
    }

    fn op(&mut self) -> Op {
        let lba = BLOCKS[self.rng.below(24) as usize];
        match self.rng.below(10) {
            0 => Op::Nothing,
            1 => Op::Unmap(lba, 1 + self.rng.below(20)),
            2 => Op::Unmap(self.rng.below(100), 3900),
            _ => {
                let count = if lba < 600 { 1 + self.rng.below(520 - lba) % 4 } else { 1 };
                Op::Write(lba, (0..count).map(|_| self.tag()).collect())
            }
        }
    }

    pub fn append(&mut self, at: usize, replica: &Replica) {
        let mut index = replica.log_state().last.map_or(1, |last| last.index + 1);
        let ops: Vec<Op> = (0..1 + self.rng.below(3)).map(|_| self.op()).collect();
        let mut records = Vec::new();
        let mut log = (*self.lives[at].era().log()).clone();
        for op in ops {
            records.push(op.record(index));
            log.insert(index, op);
            index += 1;
        }
        let version = Version { issued: self.now(), acked: not_acked(), value: Rc::new(log) };
        let (acked, disks) = (Arc::clone(&version.acked), self.disks.clone());
        let done = Box::new(move |result: Result<(), PoolError>| {
            // A pool that is dropped refuses what it has not written.
            if result.is_ok() {
                acked.store(disks.events(), Ordering::Relaxed);
            }
        });
        // Before the call: making room may write batches, and those may not contain this one.
        match replica.append(records, done) {
            Ok(()) => self.lives[at].era().logs.push(version),
            Err(PoolError::NoSpace { .. }) => {}
            Err(e) => panic!("append: {e}"),
        }
        let last = index - 1;
        if self.rng.chance(30) {
            replica.note_committed(mark(last));
        }
    }

    pub fn apply(&mut self, at: usize, replica: &Replica) {
        let Some(last) = replica.log_state().last else { return };
        let applied = self.lives[at].era().last_applied();
        let from = applied.map_or(1, |index| index + 1);
        if from > last.index {
            return;
        }
        let upto = from + self.rng.below(last.index - from + 1);
        let skips: Vec<u64> = (from..=upto).filter(|_| self.rng.chance(10)).collect();
        let blob = self.rng.chance(30).then(|| Bytes::copy_from_slice(&upto.to_le_bytes()));
        // It first waits until the entries are durable.
        ready(replica.apply(upto, &skips, blob)).unwrap();
        let issued = self.now();
        let era = self.lives[at].era();
        let log = era.log();
        for index in from..=upto {
            let op = if skips.contains(&index) { Op::Nothing } else { log[&index].clone() };
            era.history.push((index, op));
        }
        // Not acknowledged by itself: a crash may forget it, a checkpoint makes it last.
        era.applied.push(Version { issued, acked: not_acked(), value: Some(upto) });
    }

    fn purge(&mut self, at: usize, replica: &Replica) {
        let Some(mark) = *replica.checkpointed().borrow() else { return };
        let keep = self.rng.below(4);
        let Some(upto) = mark.index.checked_sub(keep) else { return };
        let era = self.lives[at].era();
        if era.last_purged() >= Some(upto) || !era.log().contains_key(&upto) {
            return;
        }
        let issued = self.now();
        replica.purge(replica.log_mark(upto).unwrap()).unwrap();
        self.lives[at].era().purged.push(Version { issued, acked: not_acked(), value: Some(upto) });
    }

    fn truncate(&mut self, at: usize, replica: &Replica) {
        let Some(last) = replica.log_state().last else { return };
        let era = self.lives[at].era();
        let low = era.last_applied().max(era.last_purged()).unwrap_or(0);
        if low >= last.index {
            return;
        }
        let after = low + self.rng.below(last.index - low);
        let mut log = (*self.lives[at].era().log()).clone();
        log.retain(|index, _| *index <= after);
        let version = Version { issued: self.now(), acked: not_acked(), value: Rc::new(log) };
        ready(replica.truncate_after(Some(after))).unwrap();
        self.ack(&version.acked);
        self.lives[at].era().logs.push(version);
    }

    fn vote(&mut self, at: usize, replica: &Replica) {
        let value = self.tag();
        let version = Version { issued: self.now(), acked: not_acked(), value };
        ready(replica.save_hard_state(Bytes::copy_from_slice(&value.to_le_bytes()))).unwrap();
        self.ack(&version.acked);
        self.lives[at].votes.push(version);
    }

    pub fn checkpoint(&mut self) {
        ready(self.pool().checkpoint()).unwrap();
        self.checkpointed();
    }

    fn checkpointed(&mut self) {
        let now = self.now();
        for life in self.lives.iter_mut().filter(|life| life.deleted.is_none()) {
            let era = life.era();
            era.applied.last().unwrap().acked.fetch_min(now, Ordering::Relaxed);
            era.purged.last().unwrap().acked.fetch_min(now, Ordering::Relaxed);
        }
    }

    fn install(&mut self, at: usize, replica: &Replica) {
        let last = replica.log_state().last.map_or(0, |mark| mark.index);
        let start = last + 1000;
        let mut installer = replica.begin_install(mark(start), Bytes::from_static(b"state")).unwrap();
        let mut base = std::collections::BTreeMap::new();
        for _ in 0..self.rng.below(5) {
            let lba = BLOCKS[self.rng.below(24) as usize];
            let tag = self.tag();
            let bytes = super::block(tag);
            let crc = crc32fast::hash(&bytes);
            match ready(installer.write(Lba(lba), &[last], &[crc], Bytes::from(bytes))) {
                Ok(()) => drop(base.insert(lba, tag)),
                Err(PoolError::NoSpace { .. }) => return,
                Err(e) => panic!("install: {e}"),
            }
            if self.rng.chance(30) {
                self.checkpoint();
            }
        }
        if self.rng.chance(30) {
            return; // given up
        }
        let issued = self.now();
        let acked = self.lives[at].install(issued, start, base);
        ready(installer.finish()).unwrap();
        self.ack(&acked);
    }

    fn delete(&mut self, at: usize) {
        let acked = not_acked();
        self.lives[at].deleted = Some((self.now(), Arc::clone(&acked)));
        ready(self.pool().delete_replica(volume(self.lives[at].volume))).unwrap();
        self.ack(&acked);
    }

    fn reopen(&mut self) {
        self.close();
        let mut devices = self.disks.devices();
        devices.truncate(self.given);
        self.pool = Some(Pool::open_on(devices, options()).unwrap());
    }

    pub fn close(&mut self) {
        self.pool.take().unwrap().close().unwrap();
        self.checkpointed();
    }

    /// Compares everything with the model, as it must be now.
    pub fn verify(&self, pool: &Pool, point: usize) -> Result<(), String> {
        let problems = pool.check(true).map_err(|e| format!("check: {e}"))?;
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        for n in 1..=3 {
            let lives: Vec<&Life> = self.lives.iter().filter(|life| life.volume == n).collect();
            let Ok(replica) = pool.replica(volume(n)) else {
                match lives.iter().find(|life| life.must_live(point)) {
                    Some(life) => return Err(format!("volume {n} life {} is missing", life.number)),
                    None => continue,
                }
            };
            let number = u64::from_le_bytes(replica.config().user[..8].try_into().unwrap());
            let Some(life) = lives.iter().find(|life| life.number == number && life.may_live(point)) else {
                return Err(format!("volume {n}: life {number} cannot be alive"));
            };
            life.check(point, &replica, &BLOCKS)?;
        }
        let problems = pool.check(true).map_err(|e| format!("check: {e}"))?;
        if problems.is_empty() { Ok(()) } else { Err(format!("after applying again: {}", problems.join("\n"))) }
    }
}
