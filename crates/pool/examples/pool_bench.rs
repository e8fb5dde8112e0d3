//! Measures the write path of a pool on a file: 4 KiB random writes, applied when durable, purged behind checkpoints.
//!
//! ```text
//! pool_bench FILE [--size-gib 4] [--volume-mib 1024] [--seconds 10] [--depth 32] [--read]
//! ```
//! Prints IOPS, CPU per write (this process, kernel part apart), bytes written per byte of payload, flushes per write.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ballast_api::{BLOCK_SIZE, BlockCount, Lba, VolumeId};
use ballast_pool::{
    DeviceConfig, LogMark, LogOp, LogRecord, OpenOptions, Pool, PoolConfig, PoolError, PoolStats, Replica,
    ReplicaConfig,
};
use bytes::Bytes;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: pool_bench FILE [--option value ...]")?);
    let (mut size, mut volume, mut seconds, mut depth, mut read) = (4, 1024, 10, 32, false);
    while let Some(name) = args.next() {
        if name == "--read" {
            read = true;
            continue;
        }
        let value: u64 = args.next().ok_or("an option without a value")?.parse()?;
        match name.as_str() {
            "--size-gib" => size = value,
            "--volume-mib" => volume = value,
            "--seconds" => seconds = value,
            "--depth" => depth = value,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    let device = DeviceConfig { path: path.clone(), size: Some(size << 30) };
    Pool::create(&PoolConfig {
        name: String::from("bench"),
        devices: vec![device],
        journal_bytes: None,
        meta_bytes: None,
    })?;
    let pool = Pool::open(std::slice::from_ref(&path), OpenOptions::default())?;
    let blocks = volume << 8;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let id = VolumeId::random();
    let replica =
        runtime.block_on(pool.create_replica(id, ReplicaConfig { blocks: BlockCount(blocks), user: Bytes::new() }))?;
    let mut bench = Bench { replica, next: 1, seed: 0x1234_5678_9abc_def1, blocks };
    // Fill once, so that the writes measured are overwrites in a full map.
    runtime.block_on(bench.writes(&pool, depth.max(64), Until::Count(blocks)))?;
    for depth in if depth == 1 { vec![1] } else { vec![1, depth] } {
        runtime.block_on(pool.checkpoint())?;
        let (before, cpu, start) = (pool.stats(), cpu_times(), Instant::now());
        let count =
            runtime.block_on(bench.writes(&pool, depth, Until::Time(Instant::now() + Duration::from_secs(seconds))))?;
        let elapsed = start.elapsed();
        runtime.block_on(pool.checkpoint())?;
        report(depth, count, elapsed, cpu, &before, &pool.stats());
    }
    if read {
        let (count, start, cpu) = (50_000, Instant::now(), cpu_times());
        for _ in 0..count {
            let lba = bench.random() % blocks;
            runtime.block_on(bench.replica.read(Lba(lba), BlockCount(1)))?;
        }
        let now = cpu_times();
        let per = |ticks: u64| ticks as f64 * 10_000.0 / f64::from(count);
        println!(
            "read depth 1: {:.0} IOPS, CPU {:.1} us user {:.1} us kernel",
            f64::from(count) / start.elapsed().as_secs_f64(),
            per(now.0 - cpu.0),
            per(now.1 - cpu.1)
        );
    }
    // A crash, as far as the pool can tell: the journal is replayed.
    drop((bench, pool));
    let start = Instant::now();
    let pool = Pool::open(&[path], OpenOptions::default())?;
    println!(
        "open after a crash: {:.3} s, {} KiB of journal",
        start.elapsed().as_secs_f64(),
        pool.stats().journal_used_bytes >> 10
    );
    let start = Instant::now();
    pool.close()?;
    println!("close: {:.3} s", start.elapsed().as_secs_f64());
    Ok(())
}

enum Until {
    Count(u64),
    Time(Instant),
}

struct Bench {
    replica: Replica,
    next: u64,
    seed: u64,
    blocks: u64,
}

impl Bench {
    fn random(&mut self) -> u64 {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn record(&mut self, sequential: bool) -> LogRecord {
        let index = self.next;
        self.next += 1;
        let lba = if sequential { index % self.blocks } else { self.random() % self.blocks };
        let mut payload = vec![0; BLOCK_SIZE];
        payload[..8].copy_from_slice(&index.to_le_bytes());
        payload[8..16].copy_from_slice(&lba.to_le_bytes());
        let crcs: Arc<[u32]> = Arc::new([crc32fast::hash(&payload)]);
        let op = LogOp::Write { lba: Lba(lba), crcs, payload: Bytes::from(payload) };
        LogRecord { mark: LogMark { index, tag: [1; 16] }, header: Bytes::from_static(&[7; 20]), op }
    }

    /// Keeps `depth` writes under way; each is applied when it is durable.
    async fn writes(&mut self, pool: &Pool, depth: u64, until: Until) -> Result<u64, PoolError> {
        let (tx, rx) = mpsc::channel();
        let durable = Arc::new(AtomicU64::new(self.next - 1));
        let (mut under_way, mut done) = (0, 0u64);
        let checkpointed = self.replica.checkpointed();
        loop {
            let more = match &until {
                Until::Count(count) => done + under_way < *count,
                Until::Time(end) => Instant::now() < *end,
            };
            while more && under_way < depth {
                let record = self.record(matches!(until, Until::Count(_)));
                let (tx, durable, index) = (tx.clone(), Arc::clone(&durable), record.mark.index);
                let call_back = move |result: Result<(), PoolError>| {
                    durable.store(index, Ordering::Release);
                    let _ = tx.send(result);
                };
                self.replica.append(vec![record], Box::new(call_back))?;
                under_way += 1;
            }
            if under_way == 0 {
                return Ok(done);
            }
            rx.recv().map_err(|_| PoolError::Closed)??;
            under_way -= 1;
            done += 1;
            while let Ok(result) = rx.try_recv() {
                result?;
                under_way -= 1;
                done += 1;
            }
            let upto = durable.load(Ordering::Acquire);
            self.replica.note_committed(LogMark { index: upto, tag: [1; 16] });
            self.replica.apply(upto, &[], None).await?;
            let covered = *checkpointed.borrow();
            if let Some(mark) = covered
                && mark.index > 1024
                && let Some(mark) = self.replica.log_mark(mark.index - 1024)
                && self.replica.log_state().purged.is_none_or(|purged| purged.index < mark.index)
            {
                self.replica.purge(mark)?;
            }
            let _ = pool;
        }
    }
}

/// User and kernel time of this process in ticks of 10 ms.
fn cpu_times() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let field = |at: usize| rest.split_whitespace().nth(at).and_then(|value| value.parse().ok()).unwrap_or(0);
    (field(11), field(12))
}

fn report(depth: u64, count: u64, elapsed: Duration, cpu: (u64, u64), before: &PoolStats, after: &PoolStats) {
    let now = cpu_times();
    let per_write = |ticks: u64| ticks as f64 * 10_000.0 / count as f64;
    let payload = (count * BLOCK_SIZE as u64) as f64;
    let part = |of: fn(&PoolStats) -> u64| (of(after) - of(before)) as f64 / payload;
    let (journal, checkpoint) = (part(|s| s.journal_bytes_written), part(|s| s.checkpoint_bytes_written));
    let (data, superblock, prepare) =
        (part(|s| s.payload_bytes_written), part(|s| s.superblock_bytes_written), part(|s| s.prepare_bytes_written));
    println!(
        "write depth {depth}: {:.0} IOPS, CPU {:.1} us user {:.1} us kernel; bytes per byte {:.3} = payload {data:.3} + journal {journal:.3} + checkpoint {checkpoint:.3} + superblock {superblock:.3} (prepare {prepare:.3}); {:.3} flushes and {:.3} batches per write, {} checkpoints",
        count as f64 / elapsed.as_secs_f64(),
        per_write(now.0 - cpu.0),
        per_write(now.1 - cpu.1),
        data + journal + checkpoint + superblock,
        (after.device_flushes - before.device_flushes) as f64 / count as f64,
        (after.batches - before.batches) as f64 / count as f64,
        after.checkpoints - before.checkpoints,
    );
}
