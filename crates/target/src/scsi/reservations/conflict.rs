//! Which commands a reservation keeps out (SPC-4 table 64, SBC-3 table 13).

use super::state::State;
use crate::scsi::command::Command;
use crate::scsi::port::InitiatorPort;

/// What a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Always allowed, also beside another initiator's RESERVE.
    Nothing,
    /// Allowed beside every persistent reservation, but not beside RESERVE.
    NoReserve,
    /// To read: kept out by exclusive access.
    Read,
    /// To change something: kept out by every reservation of others.
    Write,
    /// Judged by their own rules.
    Own,
}

/// The class of a command.
pub(super) fn needs(command: &Command) -> Needs {
    match command {
        Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. } => Needs::Nothing,
        Command::TestUnitReady
        | Command::ReadCapacity10
        | Command::ReadCapacity16 { .. }
        | Command::ReportPortGroups { .. }
        | Command::CopyParameters { .. }
        | Command::CopyStatus { .. }
        | Command::LogSense { .. } => Needs::NoReserve,
        // START=1 without a power condition and PREVENT=0 are allowed (SBC-3 table 13); everything that these two do here is
        // nothing, so there is nothing to be kept out of.
        Command::StartStop | Command::PreventAllow => Needs::NoReserve,
        Command::PersistentReserveIn { .. }
        | Command::PersistentReserveOut { .. }
        | Command::Reserve
        | Command::Release => Needs::Own,
        Command::Read { .. }
        | Command::Verify { .. }
        | Command::Prefetch { .. }
        | Command::LbaStatus { .. }
        | Command::ModeSense { .. }
        | Command::ReadDefects { .. }
        | Command::ReportOpcodes { .. } => Needs::Read,
        Command::Write { .. }
        | Command::WriteAtomic { .. }
        | Command::ExtendedCopy { .. }
        | Command::CompareAndWrite { .. }
        | Command::OrWrite { .. }
        | Command::WriteVerify { .. }
        | Command::WriteSame { .. }
        | Command::Unmap { .. }
        | Command::SynchronizeCache { .. }
        | Command::ModeSelect { .. } => Needs::Write,
    }
}

/// Whether a persistent reservation keeps a command out.
pub(super) fn conflicts(state: &State, port: &InitiatorPort, needs: Needs) -> bool {
    let Some(reservation) = &state.reservation else { return false };
    let kind = reservation.kind;
    let may = state.holds(port) || (kind.is_open_to_registrants() && state.key_of(port).is_some());
    match needs {
        Needs::Nothing | Needs::NoReserve | Needs::Own => false,
        Needs::Read => !may && !kind.is_write_exclusive(),
        Needs::Write => !may,
    }
}
