//! Runs admitted commands on a device. Writes are durable before GOOD; long runs go in bounded pieces.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::command::{Command, Compare};
use super::nexus::MAX_TRANSFER;
use super::port::InitiatorPort;
use super::sense::{Sense, SenseKey, code, device_error};
use super::unit::LogicalUnit;
use super::{Completion, capacity, copy, inquiry, log, mode, report, unmap, vpd};
use crate::block_device::{BlockDevice, DeviceError};

/// Piece of a long run: enough to be efficient, small enough to share the device.
const PIECE: u64 = 1024 * 1024;

/// Ranges of one UNMAP under way at a time.
const UNMAPS_AT_A_TIME: usize = 32;
/// Most LBA status descriptors of one answer.
const MAX_STATUS_DESCRIPTORS: u32 = 1024;

enum Failure {
    Device(DeviceError),
    Sense(Sense),
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// Runs one command with the Data-Out that came with it.
pub async fn execute<D: BlockDevice>(
    unit: Arc<LogicalUnit<D>>,
    port: &InitiatorPort,
    command: Command,
    data: Bytes,
) -> Completion {
    let device = &*unit.device;
    let reservations = &unit.reservations;
    if let Err(refused) = reservations.admit(device, port, &command).await {
        return refused;
    }
    let done = match command {
        Command::PersistentReserveIn { what, allocation } => {
            return reservations.report(device, what, allocation).await;
        }
        Command::PersistentReserveOut { action, scope_and_type, length } => {
            return reservations.service(device, port, (action, scope_and_type, length), &data).await;
        }
        Command::Reserve => return reservations.reserve(port).await,
        Command::Release => return reservations.release(port),
        Command::RequestSense { descriptor, allocation, pending: None } => {
            let pending = reservations.take_attention(port);
            return parameters(&unit, Command::RequestSense { descriptor, allocation, pending }, &data);
        }
        Command::Read { lba, blocks } if blocks > 0 => match device.read(lba * 512, blocks * 512).await {
            Ok(data) => return Completion::data(data),
            Err(error) => Err(error.into()),
        },
        Command::Write { lba, fua, .. } => write(device, lba, data, fua).await,
        // One write of the device is one step, as far as the limits of VPD B0h go.
        Command::WriteAtomic { lba, .. } => write(device, lba, data, true).await,
        Command::CopyStatus { list_id, allocation } => {
            return match unit.copies.take(port, list_id) {
                Some(status) => Completion::parameters(status, allocation),
                None => Completion::check(Sense::field(2)),
            };
        }
        Command::ExtendedCopy { length } => extended_copy(&unit, port, length, &data).await,
        Command::LbaStatus { lba, allocation } => match lba_status(&unit, lba, allocation).await {
            Ok(bytes) => return Completion::parameters(bytes, allocation),
            Err(error) => Err(error.into()),
        },
        Command::CompareAndWrite { lba, .. } => compare_and_write(device, lba, data).await,
        Command::OrWrite { lba, .. } => or_write(device, lba, data).await,
        Command::WriteVerify { lba, blocks, compare } => write_verify(device, lba, blocks, compare, data).await,
        Command::Verify { lba, blocks, compare } => verify(device, lba, blocks, compare, &data).await,
        Command::SynchronizeCache { .. } => device.flush().await.map_err(Into::into),
        Command::WriteSame { lba, blocks, no_data, unmap } => {
            write_same(device, lba, blocks, no_data, unmap, data).await
        }
        Command::Unmap { .. } => unmap_all(&unit, &data).await,
        other => return parameters(&unit, other, &data),
    };
    match done {
        Ok(()) => Completion::good(),
        Err(Failure::Sense(sense)) => Completion::check(sense),
        Err(Failure::Device(error)) => {
            // The others are states that last and fail every command; the device reports them once itself.
            if matches!(error, DeviceError::Corrupt { .. } | DeviceError::Internal(_)) {
                tracing::warn!(target = %unit.target, ?command, %error, "command failed");
            }
            device_error(&error)
        }
    }
}

/// Commands that touch no blocks.
fn parameters<D: BlockDevice>(unit: &LogicalUnit<D>, command: Command, data: &[u8]) -> Completion {
    let state = unit.state();
    let answer = match command {
        Command::Inquiry { page, allocation, unit: exists } => {
            inquiry::inquiry(page, exists, &unit.target, &unit.geometry).map(|d| Completion::parameters(d, allocation))
        }
        Command::RequestSense { descriptor, allocation, pending } => {
            let sense = pending.unwrap_or(Sense::new(SenseKey::NoSense, code::NONE));
            let bytes = if descriptor { sense.descriptors() } else { sense.fixed().to_vec() };
            Ok(Completion::parameters(bytes, allocation))
        }
        Command::ReadCapacity10 => Ok(Completion::data(Bytes::from(capacity::read_capacity10(state.blocks)))),
        Command::ReadCapacity16 { allocation } => {
            Ok(Completion::parameters(capacity::read_capacity16(state.blocks), allocation))
        }
        Command::LogSense { page, subpage, from, allocation } => {
            log::sense(page, subpage, from).map(|d| Completion::parameters(d, allocation))
        }
        Command::CopyParameters { allocation } => Ok(Completion::parameters(copy::operating_parameters(), allocation)),
        Command::ReadDefects { short, lists, allocation } => {
            Ok(Completion::parameters(capacity::read_defects(short, lists), allocation))
        }
        Command::ReportLuns { select, allocation } => Ok(Completion::parameters(report::luns(select), allocation)),
        Command::ReportPortGroups { extended, allocation } => {
            Ok(Completion::parameters(report::port_groups(extended), allocation))
        }
        Command::ReportOpcodes { timeouts, options, opcode, action, allocation } => {
            report::opcodes(timeouts, options, opcode, action).map(|d| Completion::parameters(d, allocation))
        }
        Command::ModeSense { allocation, .. } => {
            mode::sense(&command, state).map(|d| Completion::parameters(d, allocation))
        }
        Command::ModeSelect { form, length } => mode::select(form, length, data, state).map(|()| Completion::good()),
        _ => Ok(Completion::good()),
    };
    answer.unwrap_or_else(Completion::check)
}

/// Whole blocks of what came: an initiator may announce less data than its CDB says (residual overflow).
fn whole_blocks(mut data: Bytes) -> Bytes {
    data.truncate(data.len() & !511);
    data
}

async fn write<D: BlockDevice>(device: &D, lba: u64, data: Bytes, fua: bool) -> Result<(), Failure> {
    let data = whole_blocks(data);
    if data.is_empty() {
        return Ok(());
    }
    Ok(device.write(lba * 512, data, fua).await?)
}

/// COMPARE AND WRITE (SBC-3 section 5.2): the first half of the data is compared, the second written if all of it is there.
async fn compare_and_write<D: BlockDevice>(device: &D, lba: u64, mut data: Bytes) -> Result<(), Failure> {
    let new = data.split_off(data.len() / 2);
    let mut differs = None;
    let compare = |found: &[u8]| {
        differs = found.iter().zip(&data).position(|(found, wanted)| found != wanted);
        differs.is_none().then_some(new)
    };
    device.update(lba * 512, data.len() as u32, compare).await?;
    match differs {
        None => Ok(()),
        // The offset of the first byte that differs.
        Some(at) => Err(Sense::new(SenseKey::Miscompare, code::MISCOMPARE).at(at as u64).into()),
    }
}

/// EXTENDED COPY of blocks within the unit, one segment after the other.
async fn extended_copy<D: BlockDevice>(
    unit: &LogicalUnit<D>,
    port: &InitiatorPort,
    length: u32,
    list: &[u8],
) -> Result<(), Failure> {
    let copy = copy::parse(list, length, &vpd::naa(&unit.geometry), unit.state().blocks)?;
    let mut done = copy::Progress::default();
    let result = copy_segments(&*unit.device, &copy.segments, &mut done).await;
    if let Some(list_id) = copy.held {
        unit.copies.hold(port, list_id, result.is_ok(), done);
    }
    result
}

async fn copy_segments<D: BlockDevice>(
    device: &D,
    segments: &[copy::Segment],
    done: &mut copy::Progress,
) -> Result<(), Failure> {
    for segment in segments {
        let (from, to, len) = (segment.from * 512, segment.to * 512, u64::from(segment.blocks) * 512);
        let mut at = 0;
        while at < len {
            let n = PIECE.min(len - at);
            let piece = device.read(from + at, n as u32).await?;
            device.write(to + at, piece, true).await?;
            at += n;
            done.bytes += n;
        }
        done.segments += 1;
    }
    Ok(())
}

/// GET LBA STATUS (SBC-3 section 5.4): as many descriptors as fit, from the starting LBA on, at least one.
async fn lba_status<D: BlockDevice>(unit: &LogicalUnit<D>, lba: u64, allocation: u32) -> Result<Vec<u8>, DeviceError> {
    let end = unit.state().blocks;
    let extents = unit.device.extents(lba * 512, (end - lba) * 512).await?;
    let room = (allocation.saturating_sub(8) / 16).clamp(1, MAX_STATUS_DESCRIPTORS) as usize;
    Ok(capacity::lba_status(lba, extents.iter().take(room)))
}

async fn or_write<D: BlockDevice>(device: &D, lba: u64, data: Bytes) -> Result<(), Failure> {
    let data = whole_blocks(data);
    let or = |found: &[u8]| Some(found.iter().zip(&data).map(|(found, bits)| found | bits).collect());
    Ok(device.update(lba * 512, data.len() as u32, or).await?)
}

async fn write_verify<D: BlockDevice>(
    device: &D,
    lba: u64,
    blocks: u32,
    compare: Compare,
    data: Bytes,
) -> Result<(), Failure> {
    let data = whole_blocks(data);
    let blocks = blocks.min((data.len() / 512) as u32);
    write(device, lba, data.clone(), true).await?;
    verify(device, lba, blocks, compare, &data).await
}

async fn verify<D: BlockDevice>(
    device: &D,
    lba: u64,
    blocks: u32,
    compare: Compare,
    data: &[u8],
) -> Result<(), Failure> {
    if compare == Compare::OneBlock && data.len() < 512 && blocks > 0 {
        return Err(Sense::illegal(code::INVALID_FIELD_IN_IU).into());
    }
    let blocks = if compare == Compare::Data { blocks.min((data.len() / 512) as u32) } else { blocks };
    let mut at = 0;
    let end = u64::from(blocks) * 512;
    while at < end {
        let n = PIECE.min(end - at);
        let found = device.read(lba * 512 + at, n as u32).await?;
        let differs = found.chunks(512).enumerate().find(|(i, block)| {
            let start = at as usize + i * 512;
            match compare {
                Compare::Medium => false,
                Compare::Data => data.get(start..start + 512) != Some(*block),
                Compare::OneBlock => data.get(..512) != Some(*block),
            }
        });
        if let Some((i, _)) = differs {
            let wrong = lba + at / 512 + i as u64;
            return Err(Sense::new(SenseKey::Miscompare, code::MISCOMPARE).at(wrong).into());
        }
        at += n;
    }
    Ok(())
}

/// WRITE SAME (SBC-3 section 5.43). Zeroes never travel: they are a hole (UNMAP=1; unmapped blocks read as zeroes,
/// LBPRZ=1) or written as zeroes by the device itself.
async fn write_same<D: BlockDevice>(
    device: &D,
    lba: u64,
    blocks: u64,
    no_data: bool,
    unmap: bool,
    block: Bytes,
) -> Result<(), Failure> {
    if !no_data && block.len() != 512 {
        return Err(Sense::illegal(code::INVALID_FIELD_IN_IU).into());
    }
    let (offset, len) = (lba * 512, blocks * 512);
    if no_data || block.iter().all(|b| *b == 0) {
        return Ok(if unmap { device.unmap(offset, len).await } else { device.write_zeroes(offset, len).await }?);
    }
    let unit = PIECE.min(len) as usize;
    let mut piece = BytesMut::with_capacity(unit);
    while piece.len() < unit {
        piece.extend_from_slice(&block);
    }
    let piece = piece.freeze();
    let mut at = 0;
    while at < len {
        let n = PIECE.min(len - at);
        device.write(offset + at, piece.slice(..n as usize), false).await?;
        at += n;
    }
    Ok(())
}

async fn unmap_all<D: BlockDevice>(unit: &LogicalUnit<D>, list: &[u8]) -> Result<(), Failure> {
    let ranges = unmap::ranges(list, unit.state().blocks)?;
    let unmap = |(lba, blocks)| unit.device.unmap(lba * 512, u64::from(blocks) * 512);
    Ok(stream::iter(ranges.into_iter().map(unmap)).buffer_unordered(UNMAPS_AT_A_TIME).try_collect().await?)
}

const _: () = assert!(MAX_TRANSFER as u64 * 512 <= u32::MAX as u64, "a transfer's bytes fit the u32 of a read");
