//! The one place where the cases touch sessions and commands, and the device below them.

use std::sync::Arc;

use ballast_target::iscsi::keys::Params;
use ballast_target::iscsi::login::LoginOutcome;
use ballast_target::iscsi::pdu::Pdu;
use ballast_target::iscsi::session::{Env, Session, SessionError, TargetList};
use ballast_target::scsi::command::Cdb;
use ballast_target::scsi::{
    Attention, Command, Completion, InitiatorPort, LogicalUnit, Nexus, Sense, UnitState, execute,
};
use ballast_target::{BlockDevice, DeviceError, Extent, Geometry, MemoryDevice};
use bytes::Bytes;
use futures_util::FutureExt;

pub const TARGET: &str = "iqn.2026-01.test:fuzz";
pub const CID: u16 = 3;

/// A device in memory that insists on what the SCSI layer promises: whole blocks inside the capacity.
pub struct Strict(MemoryDevice);

impl Strict {
    fn check(&self, offset: u64, len: u64) {
        let size = self.0.blocks512() * 512;
        assert!(offset.is_multiple_of(512) && len.is_multiple_of(512), "{offset}+{len}: not whole blocks");
        assert!(offset <= size && len <= size - offset, "{offset}+{len}: beyond {size}");
    }
}

impl BlockDevice for Strict {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError> {
        self.check(offset, len.into());
        self.0.read(offset, len).await
    }

    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), DeviceError> {
        self.check(offset, data.len() as u64);
        self.0.write(offset, data, fua).await
    }

    async fn update(
        &self,
        offset: u64,
        len: u32,
        change: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<(), DeviceError> {
        self.check(offset, len.into());
        self.0.update(offset, len, change).await
    }

    async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, DeviceError> {
        self.check(offset, len);
        self.0.extents(offset, len).await
    }

    async fn load_state(&self) -> Result<Bytes, DeviceError> {
        self.0.load_state().await
    }

    async fn save_state(&self, state: Bytes) -> Result<(), DeviceError> {
        assert!(state.len() <= 48 * 1024, "{} bytes are more than a volume keeps", state.len());
        self.0.save_state(state).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check(offset, len);
        self.0.unmap(offset, len).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check(offset, len);
        self.0.write_zeroes(offset, len).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.0.flush().await
    }
}

pub type Unit = Arc<LogicalUnit<Strict>>;

/// A unit of so many blocks.
pub fn unit(blocks: u64, read_only: bool) -> Unit {
    let memory = MemoryDevice::new(blocks * 512, "fuzz", [7; 16]);
    let memory = if read_only { memory.read_only() } else { memory };
    Arc::new(LogicalUnit::new(TARGET.to_owned(), Arc::new(Strict(memory))))
}

/// Runs a command; the device in memory never waits.
pub fn run(unit: &Unit, command: Command, data: Bytes) -> Completion {
    // Several initiators, so that reservations have somebody to keep out.
    let port = InitiatorPort::new("iqn.2026-01.test:initiator", [0x80, 0, 0, 0, 0, (data.len() % 3) as u8]);
    execute(unit.clone(), &port, command, data).now_or_never().expect("the device in memory answers at once")
}

pub fn nexus() -> Nexus {
    Nexus::new(Attention::PowerOn)
}

pub fn admit(nexus: &mut Nexus, lun: u64, cdb: &Cdb, state: UnitState) -> Result<Command, Sense> {
    nexus.admit(lun, cdb, state)
}

/// Many targets, so that an answer to SendTargets goes over several PDUs.
struct Many;

impl TargetList for Many {
    fn send_targets(&self, name: Option<&str>) -> Vec<(String, String)> {
        let all = (0..200).map(|i| (format!("iqn.2026-01.test:{i}"), "10.0.0.1:3260,1".to_owned()));
        all.filter(|(n, _)| name.is_none_or(|name| name == n)).collect()
    }
}

/// A session as a login leaves it; `target` or discovery.
pub fn session(params: Params, target: bool, exp_cmd_sn: u32, stat_sn: u32) -> Session {
    let login = LoginOutcome {
        initiator: "iqn.2026-01.test:initiator".to_owned(),
        target: target.then(|| TARGET.to_owned()),
        isid: [0x80, 0, 0, 0, 0, 1],
        tsih: 1,
        cid: CID,
        params,
        exp_cmd_sn,
        stat_sn,
    };
    Session::new(&login, Attention::PowerOn)
}

pub fn feed(session: &mut Session, pdu: Pdu, unit: Option<UnitState>) -> Result<(), SessionError> {
    session.on_pdu(pdu, &Env { unit, targets: &Many })
}
