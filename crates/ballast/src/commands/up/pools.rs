//! The pools of the data directory: which there are, and making those that are missing.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use super::UpError;
use crate::cli::UpArgs;
use crate::datadir::{DataDir, PoolDir};
use crate::output::progress;
use crate::parent::SUPERVISOR_PID;
use crate::size::ByteSize;

const DEFAULT_POOLS: u32 = 3;
const DEFAULT_SIZE: ByteSize = ByteSize(10 << 30);

/// What to do about pools: pure.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Numbers of the pools to make.
    make: Vec<u32>,
    /// What to tell the user.
    notes: Vec<String>,
}

/// Compares what there is with what was asked for. Nothing that exists is ever changed.
fn plan(existing: &[PoolDir], wanted: Option<u32>, size: Option<ByteSize>) -> Plan {
    let have = u32::try_from(existing.len()).unwrap_or(u32::MAX);
    let mut notes = Vec::new();
    let count = match wanted {
        Some(wanted) if wanted < have => {
            notes.push(format!("--pools {wanted}: all {have} pools are kept, they may hold data"));
            have
        }
        Some(wanted) => wanted,
        None if have == 0 => DEFAULT_POOLS,
        None => have,
    };
    if let Some(size) = size {
        for pool in existing.iter().filter(|pool| pool.bytes != size.0) {
            notes.push(format!(
                "{} keeps its size of {}: --pool-size is for new pools; to have a larger one, add a pool",
                pool.name,
                ByteSize(pool.bytes)
            ));
        }
    }
    let free = (0..).filter(|number| existing.iter().all(|pool| pool.number != *number));
    let make = free.take(usize::try_from(count.saturating_sub(have)).unwrap_or(0)).collect();
    Plan { make, notes }
}

/// Makes missing pools; returns all of them.
pub(super) async fn prepare(program: &Path, dir: &DataDir, args: &UpArgs) -> Result<Vec<PoolDir>, UpError> {
    let existing = dir.scan_pools()?;
    let plan = plan(&existing, args.pools, args.pool_size);
    for note in &plan.notes {
        progress(note);
    }
    let total = existing.len() + plan.make.len();
    if let Some(replicas) = args.replicas
        && usize::try_from(replicas).is_ok_and(|replicas| replicas > total)
    {
        return Err(UpError::TooFewPools { replicas, pools: total });
    }
    let size = args.pool_size.unwrap_or(DEFAULT_SIZE);
    for number in plan.make {
        progress(&format!("making pool-{number}, {size} (sparse)"));
        make(program, dir, number, size).await?;
    }
    Ok(dir.scan_pools()?)
}

/// Makes one pool in a process of its own: preparing its journal takes seconds, and a signal ends it at any point.
async fn make(program: &Path, dir: &DataDir, number: u32, size: ByteSize) -> Result<(), UpError> {
    let mut device = OsString::from(dir.begin_pool(number)?);
    device.push(format!(",size={}", size.0));
    let output = tokio::process::Command::new(program)
        .args(["pool", "create", "--name", &format!("pool-{number}"), "--device"])
        .arg(device)
        .env(SUPERVISOR_PID, std::process::id().to_string())
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| UpError::Own { action: "start the making of a pool", source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(UpError::MakePool { number, detail: format!("{} ({})", said.trim(), output.status) });
    }
    Ok(dir.finish_pool(number)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(number: u32) -> PoolDir {
        PoolDir { name: format!("pool-{number}"), number, devices: Vec::new(), bytes: 10 << 30 }
    }

    #[test]
    fn the_first_start_makes_three() {
        assert_eq!(plan(&[], None, None), Plan { make: vec![0, 1, 2], notes: vec![] });
        assert_eq!(plan(&[], Some(1), None).make, [0]);
    }

    #[test]
    fn later_starts_keep_what_there_is() {
        let three = [pool(0), pool(1), pool(2)];
        assert_eq!(plan(&three, None, None), Plan { make: vec![], notes: vec![] });
        assert_eq!(plan(&three[..2], None, Some(DEFAULT_SIZE)), Plan { make: vec![], notes: vec![] });
        assert_eq!(plan(&three, Some(5), None).make, [3, 4]);
        // A pool whose directory was removed leaves a gap, which is filled.
        assert_eq!(plan(&[pool(0), pool(2)], Some(3), None).make, [1]);
        let fewer = plan(&three, Some(2), None);
        assert_eq!((fewer.make.len(), fewer.notes.len()), (0, 1));
    }

    #[test]
    fn another_size_changes_nothing() {
        let plan = plan(&[pool(0), pool(1)], Some(3), Some(ByteSize(20 << 30)));
        assert_eq!(plan.make, [2]);
        assert_eq!(plan.notes.len(), 2);
        assert!(plan.notes[0].contains("pool-0 keeps its size of 10 GiB"), "{:?}", plan.notes);
    }
}
