//! The pool's handle, its threads, and what they share.
//!
//! Threads: the *writer* (journal), the *checkpointer*, the *preparer* (sparse files only), and readers on demand. A
//! manual pool has none; every step then runs on the calling thread.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ballast_api::{PoolId, VolumeId};
use tokio::sync::oneshot;

use crate::cache::WriteCache;
use crate::create;
use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::batch::Record;
use crate::format::label::Layout;
use crate::io::{Device, FileDevice, PoolDevice, Purpose};
use crate::jobs::Jobs;
use crate::journal::writer;
use crate::meta::{MetaStore, SuperStore};
use crate::replica::Replica;
use crate::state::replica::{Kind, ReplicaState};
use crate::state::{Core, Room};
use crate::types::{DeviceStats, OpenOptions, PoolConfig, PoolStats, ReplicaConfig};

/// What handles and threads share.
pub(crate) struct Shared {
    pub(crate) id: PoolId,
    pub(crate) devices: Vec<Arc<PoolDevice>>,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) supers: Vec<Arc<SuperStore>>,
    pub(crate) meta: Box<dyn MetaStore>,
    core: Mutex<Core>,
    pub(crate) manual: bool,
    pub(crate) wake_writer: Condvar,
    pub(crate) wake_checkpoint: Condvar,
    pub(crate) wake_prepare: Condvar,
    /// Blocks or journal space came free.
    pub(crate) space: Condvar,
    pub(crate) jobs: Jobs,
    pub(crate) cache: WriteCache,
    /// One checkpoint at a time.
    pub(crate) checkpointing: Mutex<()>,
    /// The crc of the batch being written (writer thread only).
    pub(crate) batch_crc: AtomicU32,
}

impl Shared {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        id: PoolId,
        devices: Vec<Arc<PoolDevice>>,
        layouts: Vec<Layout>,
        supers: Vec<Arc<SuperStore>>,
        meta: Box<dyn MetaStore>,
        core: Core,
    ) -> Self {
        Self {
            id,
            devices,
            layouts,
            supers,
            meta,
            manual: core.options.manual,
            cache: WriteCache::new(core.options.cache),
            core: Mutex::new(core),
            wake_writer: Condvar::new(),
            wake_checkpoint: Condvar::new(),
            wake_prepare: Condvar::new(),
            space: Condvar::new(),
            jobs: Jobs::new(16),
            checkpointing: Mutex::new(()),
            batch_crc: AtomicU32::new(0),
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a while; the caller checks its condition again.
    pub(crate) fn wait<'a>(&self, on: &Condvar, core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        on.wait_timeout(core, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Nothing is written any more; everybody who waits is told.
    pub(crate) fn fence(&self, reason: &str) {
        let (items, waiters) = {
            let mut core = self.core();
            if core.fenced.is_some() {
                return;
            }
            tracing::error!(pool = %core.options.name, reason, "pool fenced");
            core.fenced = Some(reason.to_owned());
            for rs in core.replicas.values_mut() {
                rs.waiters.clear();
            }
            (std::mem::take(&mut core.queue), std::mem::take(&mut core.checkpoint.waiters))
        };
        writer::refuse(items, || PoolError::Fenced { reason: reason.to_owned() });
        for waiter in waiters {
            let _ = waiter.send(Err(PoolError::Fenced { reason: reason.to_owned() }));
        }
        self.wake_all();
    }

    pub(crate) fn wake_all(&self) {
        self.wake_writer.notify_all();
        self.wake_checkpoint.notify_all();
        self.wake_prepare.notify_all();
        self.space.notify_all();
    }

    /// A manual pool writes what is queued; others have a thread for that.
    pub(crate) fn drive(&self) -> Result<()> {
        if self.manual {
            while self.write_batch(false)? {}
        } else {
            self.wake_writer.notify_one();
        }
        Ok(())
    }

    /// Waits for room for `blocks` new blocks; returns with the lock held.
    pub(crate) fn make_room(&self, blocks: u64, room: fn(&Core, u64) -> Result<Room>) -> Result<MutexGuard<'_, Core>> {
        let mut core = self.core();
        loop {
            core.check()?;
            let checkpoint = match room(&core, blocks)? {
                Room::Yes => {
                    core.waited_for = 0;
                    if !self.manual && core.alloc.wants_preparation(crate::prepare::CHUNK_BLOCKS).is_some() {
                        self.wake_prepare.notify_one();
                    }
                    return Ok(core);
                }
                Room::Wait { checkpoint } => checkpoint,
            };
            if self.manual {
                drop(core);
                let wrote = self.write_batch(true)?;
                let prepared = self.prepare_chunk(true)?;
                if checkpoint || (!wrote && !prepared) {
                    self.run_checkpoint()?;
                }
                core = self.core();
            } else {
                core.waited_for = core.waited_for.max(blocks);
                core.urgent |= core.frees_soon > 0;
                core.checkpoint.requested |= checkpoint;
                self.wake_all();
                core = self.wait(&self.space, core);
            }
        }
    }

    /// Queues a record and waits until it is durable.
    pub(crate) async fn record(&self, change: impl FnOnce(&mut Core) -> Result<Option<Record>>) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        {
            let mut core = self.core();
            core.check()?;
            let Some(record) = change(&mut core)? else { return Ok(()) };
            let done = Box::new(move |result| {
                let _ = tx.send(result);
            });
            core.push_record(record, true, Some(done));
        }
        self.drive()?;
        rx.await.map_err(|_| PoolError::Closed)?
    }
}

/// A pool that is open. Clones are the same pool. It stays open until [`Pool::close`], or until the last handle, of the
/// pool or of a replica, is dropped.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

/// Dropping the last handle stops the threads, as a crash would.
struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn stop(&self) {
        self.shared.core().closing = true;
        self.shared.wake_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let me = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
            let _ = thread.join();
        }
        self.shared.jobs.close();
        let rest = {
            let mut core = self.shared.core();
            core.replicas.values_mut().for_each(|rs| rs.waiters.clear());
            core.checkpoint.waiters.clear();
            std::mem::take(&mut core.queue)
        };
        writer::refuse(rest, || PoolError::Closed);
        self.shared.meta.close();
        for device in &self.shared.devices {
            let _ = device.raw().unlock();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("id", &self.inner.shared.id).finish()
    }
}

impl Pool {
    /// Makes a pool. Refuses devices that carry data; missing files are made, sparse.
    pub fn create(config: &PoolConfig) -> Result<PoolId, PoolError> {
        let mut devices: Vec<Arc<dyn Device>> = Vec::new();
        for device in &config.devices {
            let name = device.path.display().to_string();
            create::make_file(device).map_err(|e| PoolError::io(&name, "create", e))?;
            let file =
                FileDevice::open(&device.path, Default::default()).map_err(|e| PoolError::io(&name, "open", e))?;
            devices.push(Arc::new(file));
        }
        Self::create_on(&devices, config)
    }

    /// Makes a pool on these devices; the paths of `config` are not looked at.
    pub fn create_on(devices: &[Arc<dyn Device>], config: &PoolConfig) -> Result<PoolId, PoolError> {
        create::create_on(devices, config)
    }

    /// Opens the pool on the devices of `config`, or makes it there when all of them are blank or missing. A creation that
    /// was interrupted begins again. When all devices of a pool are there and others are blank or missing, the pool grows by
    /// those: they get the next numbers, in the order given, and belong to it from then on; what `config` says about
    /// journal and metadata is for them. Anything else is the error of [`Pool::open`] or [`Pool::create`]; nothing is wiped.
    pub fn open_or_create(config: &PoolConfig, options: OpenOptions) -> Result<Pool, PoolError> {
        create::check_count(config.devices.len())?;
        let paths: Vec<PathBuf> = config.devices.iter().map(|device| device.path.clone()).collect();
        let open = |paths: &[&PathBuf]| -> Result<Vec<Arc<dyn Device>>, PoolError> {
            let file = |path: &&PathBuf| -> Result<Arc<dyn Device>, PoolError> {
                let failed = |error| PoolError::io(&path.display().to_string(), "open", error);
                Ok(Arc::new(FileDevice::open(path, options.io).map_err(failed)?))
            };
            paths.iter().map(file).collect()
        };
        let (absent, present): (Vec<_>, Vec<_>) = config.devices.iter().partition(|device| create::is_absent(device));
        let present: Vec<&PathBuf> = present.into_iter().map(|device| &device.path).collect();
        if !absent.is_empty() && !create::takes_new_files(&open(&present)?)? {
            return Self::open(&paths, options);
        }
        for device in absent {
            let name = device.path.display().to_string();
            create::make_file(device).map_err(|e| PoolError::io(&name, "create", e))?;
        }
        Self::open_or_create_on(open(&paths.iter().collect::<Vec<_>>())?, config, options)
    }

    /// The same on given devices; the paths of `config` are not looked at.
    pub fn open_or_create_on(
        devices: Vec<Arc<dyn Device>>,
        config: &PoolConfig,
        options: OpenOptions,
    ) -> Result<Pool, PoolError> {
        create::create_or_grow(&devices, config)?;
        Self::open_on(devices, options)
    }

    /// Opens a pool: takes it over, recovers, starts its threads. The order of the paths does not matter.
    pub fn open(paths: &[PathBuf], options: OpenOptions) -> Result<Pool, PoolError> {
        let mut devices: Vec<Arc<dyn Device>> = Vec::new();
        for path in paths {
            let name = path.display().to_string();
            devices.push(Arc::new(FileDevice::open(path, options.io).map_err(|e| PoolError::io(&name, "open", e))?));
        }
        Self::open_on(devices, options)
    }

    /// The same on given devices.
    pub fn open_on(devices: Vec<Arc<dyn Device>>, options: OpenOptions) -> Result<Pool, PoolError> {
        let shared = Arc::new(crate::recover::open(devices, options)?);
        let mut threads = Vec::new();
        if !shared.manual {
            let prepare = shared.devices.iter().any(|device| device.raw().needs_preparation());
            threads.push(spawn("pool-writer", &shared, writer_thread)?);
            threads.push(spawn("pool-checkpoint", &shared, crate::checkpoint::thread)?);
            if prepare {
                threads.push(spawn("pool-prepare", &shared, crate::prepare::thread)?);
            }
        }
        Ok(Pool { inner: Arc::new(Inner { shared, threads: Mutex::new(threads) }) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Checkpoints, stops the threads and gives the devices back. Other handles get [`PoolError::Closed`] from now on.
    pub fn close(self) -> Result<(), PoolError> {
        let shared = self.shared();
        let result = shared.finish();
        self.inner.stop();
        result
    }

    /// The pool's id.
    pub fn id(&self) -> PoolId {
        self.shared().id
    }

    /// Figures since the pool was opened.
    pub fn stats(&self) -> PoolStats {
        self.shared().stats()
    }

    /// Makes a replica of a volume; durable on return. The same one again is fine, another one is refused.
    pub async fn create_replica(&self, volume: VolumeId, config: ReplicaConfig) -> Result<Replica, PoolError> {
        if config.user.len() > crate::types::MAX_HARD_STATE_BYTES {
            return Err(PoolError::invalid("the user part of a replica's configuration has at most 64 KiB"));
        }
        let shared = self.shared();
        shared
            .record(|core| {
                if let Some(rs) = core.by_volume.get(&volume).and_then(|slot| core.replicas.get(slot)) {
                    // It may have grown since.
                    let same = rs.capacity >= config.blocks.0 && rs.user == config.user;
                    return if same { Ok(None) } else { Err(PoolError::ReplicaExists { volume }) };
                }
                let slot = core.next_slot;
                core.next_slot += 1;
                let rs = ReplicaState::new(slot, Kind::Live, volume, config.blocks.0, config.user.clone());
                core.replicas.insert(slot, rs);
                core.by_volume.insert(volume, slot);
                Ok(Some(Record::Create { slot, volume, blocks: config.blocks.0, user: config.user.clone() }))
            })
            .await?;
        self.replica(volume)
    }

    /// Removes a replica; durable on return. Its blocks are given back by the next checkpoints.
    pub async fn delete_replica(&self, volume: VolumeId) -> Result<(), PoolError> {
        let shared = self.shared();
        let (tx, rx) = oneshot::channel();
        loop {
            let slot = *shared.core().by_volume.get(&volume).ok_or(PoolError::UnknownReplica { volume })?;
            if shared.wait_unmapped(slot).await {
                continue;
            }
            let mut core = shared.core();
            core.check()?;
            if core.replica(slot)?.unmapping {
                continue;
            }
            core.by_volume.remove(&volume);
            let mut frees = Vec::new();
            if let Some(rs) = core.replicas.get_mut(&slot) {
                rs.kind = Kind::Deleted;
                rs.waiters.clear();
                rs.drop_log(&mut frees);
            }
            core.checkpoint.requested = true;
            let done = Box::new(move |result| drop(tx.send(result)));
            core.push_freeing(slot, Record::Delete { slot }, frees, true, Some(done));
            break;
        }
        shared.drive()?;
        rx.await.map_err(|_| PoolError::Closed)??;
        shared.wake_checkpoint.notify_all();
        Ok(())
    }

    /// A handle to a replica.
    pub fn replica(&self, volume: VolumeId) -> Result<Replica, PoolError> {
        let core = self.shared().core();
        core.check()?;
        core.slot_of(volume)?;
        Ok(Replica::new(self.clone(), volume))
    }

    /// The volumes that have a replica here.
    pub fn replicas(&self) -> Vec<VolumeId> {
        let mut volumes: Vec<VolumeId> = self.shared().core().by_volume.keys().copied().collect();
        volumes.sort_unstable();
        volumes
    }

    /// Whether the pool takes anything at all: it is neither fenced nor closed.
    pub fn check_open(&self) -> Result<(), PoolError> {
        self.shared().core().check()
    }

    /// Promises room for a write of this many blocks, or says that there is none. A log cannot bear an append that finds
    /// no space, so every write is admitted before it is proposed, and keeps its promise until it is answered: then it
    /// is in the log, or never will be.
    pub fn admit(&self, blocks: u64) -> Result<Admission, PoolError> {
        let mut core = self.shared().core();
        core.check()?;
        core.room_beside_admitted(blocks)?;
        core.admitted += blocks;
        Ok(Admission { pool: self.clone(), blocks })
    }

    /// A manual pool: writes one batch, lazy records included; `false` when there was nothing to write.
    pub fn write_batch(&self) -> Result<bool, PoolError> {
        if !self.shared().manual {
            return Err(PoolError::invalid("write_batch is for manual pools"));
        }
        self.shared().write_batch(true)
    }

    /// Makes a checkpoint of the whole pool; durable on return.
    pub async fn checkpoint(&self) -> Result<(), PoolError> {
        self.shared().checkpoint_and_wait().await
    }
}

/// Room that is promised to a write; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    pool: Pool,
    blocks: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.pool.shared().core().admitted -= self.blocks;
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, run: fn(&Shared)) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(&shared))
        .map_err(|e| PoolError::io(name, "start thread", e))
}

fn writer_thread(shared: &Shared) {
    loop {
        match shared.write_batch(false) {
            Ok(true) => {}
            Ok(false) => {
                let core = shared.core();
                if core.closing || core.fenced.is_some() {
                    return;
                }
                if !core.urgent {
                    drop(shared.wait(&shared.wake_writer, core));
                }
            }
            Err(e) => {
                shared.fence(&e.to_string());
                return;
            }
        }
    }
}

impl Shared {
    fn stats(&self) -> PoolStats {
        let core = self.core();
        let sum = |purpose: Purpose| {
            self.devices.iter().map(|d| d.written[purpose as usize].load(Ordering::Relaxed)).sum::<u64>()
        };
        let (journal_used, journal) = core.journal.usage();
        let devices = self.devices.iter().enumerate().map(|(at, device)| {
            let (prepared, blocks) = core.alloc.prepared(at);
            DeviceStats {
                name: device.name.clone(),
                fenced: device.failure().map(str::to_owned),
                capacity_bytes: blocks * BLOCK,
                prepared_bytes: prepared * BLOCK,
                written_bytes: device.written_total(),
                flushes: device.flushes.load(Ordering::Relaxed),
            }
        });
        let devices: Vec<DeviceStats> = devices.collect();
        PoolStats {
            id: self.id,
            capacity_bytes: core.alloc.capacity() * BLOCK,
            allocated_bytes: core.alloc.used() * BLOCK,
            free_bytes: core.alloc.free() * BLOCK,
            journal_bytes: journal * BLOCK,
            journal_used_bytes: journal_used * BLOCK,
            payload_bytes_written: sum(Purpose::Payload),
            journal_bytes_written: sum(Purpose::Journal),
            checkpoint_bytes_written: sum(Purpose::Checkpoint),
            prepare_bytes_written: sum(Purpose::Prepare),
            superblock_bytes_written: sum(Purpose::Superblock),
            device_flushes: devices.iter().map(|d| d.flushes).sum(),
            batches: core.batches,
            records: core.records,
            checkpoints: core.checkpoint.count,
            map_bytes: core.leaves * size_of::<crate::format::leaf::Leaf>() as u64,
            devices,
        }
    }

    /// Before closing: writes what is queued, checkpoints, marks the superblocks clean.
    fn finish(&self) -> Result<()> {
        self.core().check()?;
        let (tx, rx) = std::sync::mpsc::channel();
        // The last record in the queue: when it is durable, everything before it is.
        {
            let mut core = self.core();
            core.draining = true;
            core.push_barrier(Box::new(move |result| {
                let _ = tx.send(result);
            }));
        }
        self.drive()?;
        rx.recv().map_err(|_| PoolError::Closed)??;
        self.run_checkpoint()?;
        for supers in &self.supers {
            supers.update(|sb| sb.clean = true)?;
        }
        Ok(())
    }
}
