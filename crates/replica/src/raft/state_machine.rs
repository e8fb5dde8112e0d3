//! Applies committed entries: a decision by [`VolumeState`], then an update of the pool's map. No data I/O.
//!
//! Invariants
//! * Only entries that are durable on this pool are applied, so the map never points at a block that a power cut
//!   could take back.
//! * A read sees what was answered: the answer to a write is sent after the map was updated.
//! * A snapshot is a mark, not a copy: it says "the pool's newest checkpoint holds everything up to here", so that
//!   the log before it may go. Contents travel only when a replica needs them ([`crate::snapshot`]).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ballast_api::{BlockCount, Epoch};
use ballast_pool::{LogMark, Replica};
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::codec::{decode_state, encode_state, log_id_of};
use super::log_store::to_io;
use super::types::{Config, LogId, Snapshot, SnapshotMeta, StoredMembership};
use crate::snapshot::VolumeImage;
use crate::volume::{Outcome, VolumeState};

/// Entries per map update while catching up; bounds the answers held back.
const APPLY_BATCH: usize = 512;

/// Epoch, owner, capacity, the target's state and members as of an index.
#[derive(Clone, Debug, Default)]
struct Version {
    /// Valid from this index on.
    index: u64,
    volume: VolumeState,
    membership: StoredMembership,
}

/// What the services read beside the state machine.
pub struct VolumeView {
    /// The newest applied epoch; checked by every read.
    epoch: AtomicU64,
    /// How far the volume has grown; 0: it has not.
    blocks: AtomicU64,
    /// Versions back to the newest checkpoint, so that a snapshot of it can be described. They are few: one for each
    /// take-over, membership change and state that a target keeps.
    versions: Mutex<VecDeque<Version>>,
}

impl VolumeView {
    /// The newest applied epoch.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// How far the volume has grown; 0: it has not.
    pub fn blocks(&self) -> BlockCount {
        BlockCount(self.blocks.load(Ordering::Acquire))
    }

    fn versions(&self) -> MutexGuard<'_, VecDeque<Version>> {
        // The list is replaced in single steps; a panic elsewhere cannot leave it half changed.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> Version {
        self.versions().back().cloned().unwrap_or_default()
    }

    fn at(&self, index: u64) -> Version {
        self.versions().iter().rev().find(|version| version.index <= index).cloned().unwrap_or_default()
    }

    fn push(&self, version: Version, forget_below: u64) {
        self.epoch.store(version.volume.epoch.0, Ordering::Release);
        self.blocks.store(version.volume.blocks.0, Ordering::Release);
        let mut versions = self.versions();
        versions.push_back(version);
        while versions.len() > 1 && versions[1].index <= forget_below {
            versions.pop_front();
        }
    }
}

/// The state machine of one replica.
pub struct StateMachine {
    replica: Replica,
    view: Arc<VolumeView>,
}

impl StateMachine {
    /// Takes up where the pool's recovery ended: the state of the checkpoint plus the entries applied since.
    ///
    /// The result is handed back to the pool before anything else: the next checkpoint must hold it, because after
    /// that one the entries it came from may be purged.
    pub async fn open(replica: Replica) -> Result<Self, io::Error> {
        let (mark, blob) = replica.state_at_checkpoint();
        let mut version = Version { index: mark.map_or(0, |mark| mark.index), ..Version::default() };
        if let Some(blob) = blob {
            (version.volume, version.membership) = decode_state(&blob).map_err(io::Error::other)?;
        }
        let view = Arc::new(VolumeView {
            epoch: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            versions: Mutex::new(VecDeque::new()),
        });
        view.push(version.clone(), 0);
        if let Some(applied) = replica.applied() {
            let first = mark.map_or(0, |mark| mark.index + 1);
            // Writes change nothing besides the map, which the pool's recovery has brought up to date.
            for record in replica.records_without_data(first..applied.index + 1) {
                let entry = super::codec::entry_of(record).map_err(io::Error::other)?;
                let before = (version.volume.clone(), version.membership.clone());
                match &entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(command) => _ = version.volume.apply(command),
                    EntryPayload::Membership(membership) => {
                        version.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    }
                }
                if before != (version.volume.clone(), version.membership.clone()) {
                    version.index = entry.log_id.index;
                    view.push(version.clone(), 0);
                }
            }
            let state = encode_state(&version.volume, &version.membership);
            replica.apply(applied.index, &[], Some(state)).await.map_err(to_io)?;
        }
        replica.grow(version.volume.blocks);
        Ok(Self { replica, view })
    }

    /// What the services read.
    pub fn view(&self) -> Arc<VolumeView> {
        self.view.clone()
    }

    async fn apply_batch(&self, batch: &mut Batch) -> Result<(), io::Error> {
        let Some(last) = batch.last else { return Ok(()) };
        self.replica.wait_durable(last).await.map_err(to_io)?;
        if batch.changed {
            // Agreed on, so it is true whatever checkpoint holds it first.
            self.replica.grow(batch.version.volume.blocks);
        }
        let state = batch.changed.then(|| encode_state(&batch.version.volume, &batch.version.membership));
        self.replica.apply(last, &batch.skip, state).await.map_err(to_io)?;
        if batch.changed {
            let forget = self.replica.checkpointed().borrow().map_or(0, |mark| mark.index);
            self.view.push(batch.version.clone(), forget);
        }
        for (responder, outcome) in batch.answers.drain(..) {
            responder.send(outcome);
        }
        (batch.last, batch.changed) = (None, false);
        batch.skip.clear();
        Ok(())
    }
}

struct Batch {
    version: Version,
    changed: bool,
    last: Option<u64>,
    skip: Vec<u64>,
    answers: Vec<(ApplyResponder<Config>, Outcome)>,
    entries: usize,
}

impl RaftStateMachine<Config> for StateMachine {
    type SnapshotData = VolumeImage;
    type SnapshotBuilder = CheckpointMarker;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.replica.applied().as_ref().map(log_id_of), self.view.newest().membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Batch {
            version: self.view.newest(),
            changed: false,
            last: None,
            skip: Vec::new(),
            answers: Vec::new(),
            entries: 0,
        };
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let index = entry.log_id.index;
            let outcome = match &entry.payload {
                EntryPayload::Blank => Outcome::Done,
                EntryPayload::Normal(command) => batch.version.volume.apply(command),
                EntryPayload::Membership(membership) => {
                    batch.version.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    (batch.version.index, batch.changed) = (index, true);
                    Outcome::Done
                }
            };
            match outcome {
                Outcome::Done => {}
                Outcome::Fenced { .. } => batch.skip.push(index),
                Outcome::Opened { .. } | Outcome::Saved | Outcome::Grown { .. } => {
                    (batch.version.index, batch.changed) = (index, true)
                }
            }
            batch.last = Some(index);
            batch.entries += 1;
            if let Some(responder) = responder {
                batch.answers.push((responder, outcome));
            }
            // A change of state ends its batch: the pool may checkpoint in the middle of one, and everything before the
            // last entry must then fit the state it was given before.
            if batch.changed || batch.entries.is_multiple_of(APPLY_BATCH) {
                self.apply_batch(&mut batch).await?;
            }
        }
        self.apply_batch(&mut batch).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        CheckpointMarker { replica: self.replica.clone(), view: self.view.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: VolumeImage) -> Result<(), io::Error> {
        let VolumeImage::Received { installer, state } = image else {
            // openraft hands the current snapshot back at start when the map is older than it. The map of a pool is
            // never older than its own checkpoint.
            return Err(io::Error::other("the local snapshot is newer than the map: pool state is inconsistent"));
        };
        installer.finish().await.map_err(to_io)?;
        let (volume, membership) = decode_state(&state).map_err(io::Error::other)?;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.replica.grow(volume.blocks);
        self.view.versions().clear();
        self.view.push(Version { index, volume, membership }, index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(current_snapshot(&self.replica, &self.view))
    }
}

/// Makes a snapshot out of the pool's newest checkpoint, in no time.
pub struct CheckpointMarker {
    replica: Replica,
    view: Arc<VolumeView>,
}

impl RaftSnapshotBuilder<Config> for CheckpointMarker {
    type SnapshotData = VolumeImage;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        if let Some(snapshot) = current_snapshot(&self.replica, &self.view) {
            return Ok(snapshot);
        }
        self.replica.checkpoint().await.map_err(to_io)?;
        current_snapshot(&self.replica, &self.view)
            .ok_or_else(|| io::Error::other("nothing was applied yet, so there is nothing to take a snapshot of"))
    }
}

fn current_snapshot(replica: &Replica, view: &VolumeView) -> Option<Snapshot> {
    let mark: LogMark = (*replica.checkpointed().borrow())?;
    let version = view.at(mark.index);
    let state = encode_state(&version.volume, &version.membership);
    let meta = SnapshotMeta { last_log_id: Some(log_id_of(&mark)), last_membership: version.membership };
    Some(Snapshot { meta, snapshot: VolumeImage::Local { replica: replica.clone(), state } })
}
