//! Preparing sparse files: space is written once, with zeroes, before the allocator may use it, so that a flush never
//! has to commit the file system's metadata. A background thread stays ahead of the allocator.

use crate::create;
use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::pool::Shared;
use crate::state::Core;

/// Blocks prepared at a time (64 MiB), and the least that is kept ahead.
pub(crate) const CHUNK_BLOCKS: u64 = 16384;

impl Core {
    /// Free blocks that should be prepared: a chunk, or what a large append waits for (on each device, since it may
    /// take all of it from any).
    fn preparation_ahead(&self) -> u64 {
        CHUNK_BLOCKS.max(self.waited_for)
    }
}

impl Shared {
    /// Prepares one chunk where it is wanted most; `false` when there is nothing to do.
    pub(crate) fn prepare_chunk(&self, force: bool) -> Result<bool> {
        let (device, from, to) = {
            let core = self.core();
            core.check()?;
            let ahead = if force { u64::MAX } else { core.preparation_ahead() };
            let Some(device) = core.alloc.wants_preparation(ahead) else { return Ok(false) };
            let (prepared, blocks) = core.alloc.prepared(device);
            (device, prepared, (prepared + CHUNK_BLOCKS).min(blocks))
        };
        let target = &self.devices[device];
        let space = (self.layouts[device].extents_offset + from * BLOCK, (to - from) * BLOCK);
        match create::prepare(target, space.0, space.1) {
            Err(PoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {
                tracing::warn!(device = %target.name, "the file system under the pool is full; the pool does not grow");
                self.core().alloc.stop_growth(device);
                self.space.notify_all();
                return Ok(true);
            }
            result => result?,
        }
        target.flush()?;
        self.supers[device].update(|sb| sb.prepared = to)?;
        self.core().alloc.set_prepared(device, to);
        self.space.notify_all();
        Ok(true)
    }
}

pub(crate) fn thread(shared: &Shared) {
    loop {
        match shared.prepare_chunk(false) {
            Ok(true) => {}
            Ok(false) => {
                let core = shared.core();
                if core.closing || core.fenced.is_some() {
                    return;
                }
                if core.alloc.wants_preparation(core.preparation_ahead()).is_none() {
                    drop(shared.wait(&shared.wake_prepare, core));
                }
            }
            Err(e) => {
                if !matches!(e, PoolError::Closed) {
                    shared.fence(&e.to_string());
                }
                return;
            }
        }
    }
}
