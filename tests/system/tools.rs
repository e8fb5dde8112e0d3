//! Are the tools themselves to be trusted? Proven on a foreign target: the checked load must survive the target's death,
//! find nothing where nothing is wrong, and find every kind of fault that is put there on purpose.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use ballast_tests::load::{CheckedLoad, LoadOptions, verify_again};
use ballast_tests::process::PATIENCE;
use ballast_tests::runner::{self, Outcome, TestResult};
use ballast_tests::skip_if;
use ballast_tests::tgt::Tgt;
use ballast_tests::{bench, tools};

const SPAN: u64 = 64 << 20;
const SECTOR: u64 = 512;

fn main() -> ExitCode {
    runner::main(&[
        ("checked_load_survives_the_death_of_its_target", checked_load_survives_the_death_of_its_target),
        ("checked_load_finds_what_was_damaged", checked_load_finds_what_was_damaged),
        ("bench_counts_what_it_does", bench_counts_what_it_does),
    ])
}

fn lacking() -> Option<String> {
    tools::missing(&["tgtd", "tgtadm"]).or_else(tools::missing_for_own).or_else(tools::not_root)
}

/// tgt reads and writes the page cache, which is not atomic within a sector: a torn read is no fault of the load's.
fn options(tgt: &Tgt, seed: u64) -> LoadOptions {
    LoadOptions { allow_torn: true, ..LoadOptions::new(tgt.url(), seed, SPAN, tgt.scratch()) }
}

fn checked_load_survives_the_death_of_its_target() -> TestResult {
    skip_if!(lacking());
    let mut tgt = Tgt::start(SPAN, None, None)?;
    let options = options(&tgt, 11);
    let mut load = CheckedLoad::start(&options)?;
    for _ in 0..3 {
        load.wait_progress(2000, PATIENCE)?;
        load.mark()?;
        tgt.kill()?;
        std::thread::sleep(Duration::from_millis(300));
        tgt.up()?;
        let report = load.wait_progress(2000, PATIENCE)?;
        ensure!(report.gap_since_mark_ms >= 300.0, "the gap of the dead target was not seen: {report:?}");
    }
    load.pause()?;
    load.verify_all()?;
    let report = load.finish()?;
    report.expect_clean()?;
    ensure!(report.logins == 4 && report.reissued > 0, "the load did not notice the deaths: {report:?}");
    // and another process, from the saved table
    verify_again(&options)?.expect_clean()?;
    Ok(Outcome::Passed)
}

/// Runs the load for a moment, damages the unit's file behind the target's back, and reads everything back.
fn after_damage(seed: u64, damage: impl FnOnce(&File) -> Result<()>) -> Result<ballast_tests::load::Report> {
    let tgt = Tgt::start(SPAN, None, None)?;
    let options = options(&tgt, seed);
    let mut load = CheckedLoad::start(&options)?;
    load.wait_progress(20_000, PATIENCE)?;
    load.pause()?;
    load.finish()?.expect_clean()?;
    damage(&File::options().read(true).write(true).open(tgt.file())?)?;
    verify_again(&options)
}

/// The first sector at or after `from` that the load has written (it starts with the load's magic).
fn written_sector(file: &File, from: u64) -> Result<(u64, Vec<u8>)> {
    let mut sector = vec![0; SECTOR as usize];
    for lba in from..SPAN / SECTOR {
        file.read_exact_at(&mut sector, lba * SECTOR)?;
        if sector.starts_with(b"BHCKLOAD") {
            return Ok((lba, sector));
        }
    }
    anyhow::bail!("the load wrote nothing after sector {from}")
}

fn checked_load_finds_what_was_damaged() -> TestResult {
    skip_if!(lacking());
    let nothing = after_damage(1, |_| Ok(()))?;
    nothing.expect_clean()?;
    ensure!(nothing.verified_sectors == SPAN / SECTOR, "not everything was read: {nothing:?}");

    let flipped = after_damage(2, |file| {
        let (lba, mut sector) = written_sector(file, 1000)?;
        sector[300] ^= 1;
        Ok(file.write_all_at(&sector, lba * SECTOR)?)
    })?;
    ensure!(!flipped.ok && flipped.wrong == 1 && flipped.lost == 0, "one flipped bit: {flipped:?}");

    let forgotten = after_damage(3, |file| {
        let (lba, _) = written_sector(file, 2000)?;
        Ok(file.write_all_at(&[0; SECTOR as usize], lba * SECTOR)?)
    })?;
    ensure!(!forgotten.ok && forgotten.lost == 1 && forgotten.wrong == 0, "one write undone: {forgotten:?}");

    let misplaced = after_damage(4, |file| {
        let (lba, sector) = written_sector(file, 3000)?;
        let (other, _) = written_sector(file, lba + 1)?;
        Ok(file.write_all_at(&sector, other * SECTOR)?)
    })?;
    ensure!(!misplaced.ok && misplaced.wrong == 1, "a sector in another's place: {misplaced:?}");
    stale_sector_is_found()?;
    Ok(Outcome::Passed)
}

/// An old, whole, well-placed sector: only its generation tells that an answered write is lost.
fn stale_sector_is_found() -> Result<()> {
    let tgt = Tgt::start(SPAN, None, None)?;
    let options = options(&tgt, 5);
    let mut load = CheckedLoad::start(&options)?;
    load.wait_progress(20_000, PATIENCE)?;
    load.pause()?;
    let file = File::options().read(true).write(true).open(tgt.file())?;
    // The hot part of the span (its first thirty-second) is overwritten all the time.
    let (lba, old) = written_sector(&file, 0)?;
    load.resume()?;
    load.wait_progress(40_000, PATIENCE)?;
    load.pause()?;
    let mut now = vec![0; SECTOR as usize];
    file.read_exact_at(&mut now, lba * SECTOR)?;
    ensure!(now != old, "sector {lba} was not written again");
    file.write_all_at(&old, lba * SECTOR)?;
    load.verify_all()?;
    let report = load.finish()?;
    ensure!(!report.ok && report.lost == 1 && report.wrong == 0, "one stale sector: {report:?}");
    Ok(())
}

fn bench_counts_what_it_does() -> TestResult {
    skip_if!(lacking());
    let tgt = Tgt::start(SPAN, None, None)?;
    let filled = bench::prefill(&tgt.url(), SPAN)?;
    ensure!(filled.bytes == SPAN, "prefill wrote {} of {SPAN} bytes", filled.bytes);
    let random = bench::random_writes(&tgt.url(), SPAN, 8, 1000)?;
    ensure!(random.ops == 1000 && random.bytes == 1000 * 4096, "not exactly what was asked for: {random:?}");
    Ok(Outcome::Passed)
}
