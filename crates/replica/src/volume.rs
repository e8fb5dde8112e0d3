//! What a volume is besides its blocks: the newest epoch, who owns it, how far it has grown, and
//! what targets keep with it. Pure; the log drives it.
//!
//! Invariants
//! * The state is a function of the log alone, so every replica takes the same decisions at the same index.
//! * The epoch only grows. A write that carries any other epoch than the newest has no effect: a target that lost
//!   the volume can never change it, whenever its last messages arrive.
//! * A target that reconnects takes a *new* epoch before it repeats unanswered writes. The first copies are then
//!   either before that barrier in the log, where the repetition overwrites them with the same bytes, or behind it
//!   and fenced. None can surface later and undo a newer write.

use ballast_api::{BlockCount, Epoch, Lba, TargetId};
use bytes::Bytes;
use std::sync::Arc;

/// The most bytes that a target may keep with a volume. With its header it has to fit into one record of the journal.
pub const MAX_TARGET_STATE: usize = 48 * 1024;
const _: () = assert!(MAX_TARGET_STATE + 4096 <= ballast_pool::MAX_HEADER_BYTES);

/// What the log of a volume holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// New contents of `crcs.len()` blocks.
    Write {
        /// Epoch of the writing target.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// crc32 of each block, computed by the target; kept to the disk and back.
        crcs: Arc<[u32]>,
        /// The blocks.
        payload: Bytes,
    },
    /// Blocks that read as zeroes from now on and take no space.
    Unmap {
        /// Epoch of the writing target.
        epoch: Epoch,
        /// First block.
        lba: Lba,
        /// How many.
        count: BlockCount,
    },
    /// A target takes the volume over: the epoch barrier.
    Open {
        /// Who.
        target: TargetId,
        /// `false`: only if this target owns the volume already (it reconnects).
        take_over: bool,
    },
    /// The volume has at least so many blocks from now on.
    Grow {
        /// How many; less than there are changes nothing.
        blocks: BlockCount,
    },
    /// What targets keep with the volume for the next one: reservations, for instance. Replaces what was kept before.
    SaveState {
        /// Epoch of the target.
        epoch: Epoch,
        /// Opaque here, at most [`MAX_TARGET_STATE`] bytes.
        state: Bytes,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It had no effect: a newer epoch stands in the log before it.
    Fenced {
        /// The newest epoch.
        epoch: Epoch,
    },
    /// The target owns the volume with this epoch.
    Opened {
        /// To be carried by every following command.
        epoch: Epoch,
        /// What the last target kept.
        state: Bytes,
    },
    /// The target's state is kept.
    Saved,
    /// It has this capacity.
    Grown {
        /// In blocks.
        blocks: BlockCount,
    },
}

/// The state that the commands change, besides the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeState {
    /// The newest epoch; 0 before the first target.
    pub epoch: Epoch,
    /// Who owns it.
    pub owner: Option<TargetId>,
    /// Its capacity, once it has grown; 0: what its replicas were created with.
    pub blocks: BlockCount,
    /// What the owner, or the one before it, kept last.
    pub target_state: Bytes,
}

impl VolumeState {
    /// Applies the next command of the log.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Write { epoch, .. } | Command::Unmap { epoch, .. } => {
                if *epoch == self.epoch {
                    Outcome::Done
                } else {
                    Outcome::Fenced { epoch: self.epoch }
                }
            }
            Command::Open { target, take_over } => {
                if !take_over && self.owner.is_some_and(|owner| owner != *target) {
                    return Outcome::Fenced { epoch: self.epoch };
                }
                self.epoch = Epoch(self.epoch.0 + 1);
                self.owner = Some(*target);
                Outcome::Opened { epoch: self.epoch, state: self.target_state.clone() }
            }
            Command::Grow { blocks } => {
                self.blocks = self.blocks.max(*blocks);
                Outcome::Grown { blocks: self.blocks }
            }
            Command::SaveState { epoch, state } if *epoch == self.epoch => {
                self.target_state = state.clone();
                Outcome::Saved
            }
            Command::SaveState { .. } => Outcome::Fenced { epoch: self.epoch },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(epoch: u64, state: &'static [u8]) -> Outcome {
        Outcome::Opened { epoch: Epoch(epoch), state: Bytes::from_static(state) }
    }

    fn save(epoch: u64, state: &'static [u8]) -> Command {
        Command::SaveState { epoch: Epoch(epoch), state: Bytes::from_static(state) }
    }

    fn write(epoch: u64) -> Command {
        Command::Unmap { epoch: Epoch(epoch), lba: Lba(0), count: BlockCount(1) }
    }

    #[test]
    fn a_target_that_lost_the_volume_is_fenced() {
        let (a, b) = (TargetId::random(), TargetId::random());
        let mut volume = VolumeState::default();
        assert_eq!(volume.apply(&Command::Open { target: a, take_over: true }), opened(1, b""));
        assert_eq!(volume.apply(&write(1)), Outcome::Done);
        assert_eq!(volume.apply(&Command::Open { target: b, take_over: true }), opened(2, b""));
        assert_eq!(volume.apply(&write(1)), Outcome::Fenced { epoch: Epoch(2) });
        // A reconnect of the old owner must not take the volume back.
        let reconnect = Command::Open { target: a, take_over: false };
        assert_eq!(volume.apply(&reconnect), Outcome::Fenced { epoch: Epoch(2) });
        assert_eq!(volume.apply(&write(2)), Outcome::Done);
    }

    #[test]
    fn a_reconnect_fences_the_owners_own_late_writes() {
        let a = TargetId::random();
        let mut volume = VolumeState::default();
        volume.apply(&Command::Open { target: a, take_over: true });
        let reconnect = Command::Open { target: a, take_over: false };
        assert_eq!(volume.apply(&reconnect), opened(2, b""));
        assert_eq!(volume.apply(&write(1)), Outcome::Fenced { epoch: Epoch(2) });
    }

    #[test]
    fn the_next_target_gets_what_the_last_one_kept() {
        let (a, b) = (TargetId::random(), TargetId::random());
        let mut volume = VolumeState::default();
        assert_eq!(volume.apply(&Command::Open { target: a, take_over: true }), opened(1, b""));
        assert_eq!(volume.apply(&save(1, b"reserved")), Outcome::Saved);
        assert_eq!(volume.apply(&Command::Open { target: b, take_over: true }), opened(2, b"reserved"));
        // The old one cannot change it any more.
        assert_eq!(volume.apply(&save(1, b"free")), Outcome::Fenced { epoch: Epoch(2) });
        assert_eq!(volume.apply(&Command::Open { target: b, take_over: false }), opened(3, b"reserved"));
    }

    #[test]
    fn it_grows_and_never_shrinks() {
        let mut volume = VolumeState::default();
        let grown = |blocks| Outcome::Grown { blocks: BlockCount(blocks) };
        for (asked, is) in [(10, 10), (20, 20), (15, 20)] {
            assert_eq!(volume.apply(&Command::Grow { blocks: BlockCount(asked) }), grown(is));
        }
    }

    #[test]
    fn before_the_first_open_nothing_is_written() {
        let mut volume = VolumeState::default();
        // Epoch 0 means "no target yet"; clients never carry it.
        assert_eq!(volume.apply(&write(1)), Outcome::Fenced { epoch: Epoch(0) });
    }
}
