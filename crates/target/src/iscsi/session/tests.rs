use super::*;
use crate::iscsi::digest::Digests;
use crate::iscsi::pdu::*;
use crate::scsi::Sense;
use crate::scsi::sense::code;
use proptest::prelude::*;
use std::time::Duration;

struct Two;
impl TargetList for Two {
    fn send_targets(&self, name: Option<&str>) -> Vec<(String, String)> {
        let all = (0..400).map(|i| (format!("iqn.t{i}"), "10.0.0.1:3260,1".to_owned()));
        all.filter(|(n, _)| name.is_none_or(|x| x == n)).collect()
    }
}

const BLOCKS: u64 = 1 << 20;

fn login(params: Params, target: Option<&str>) -> LoginOutcome {
    LoginOutcome {
        initiator: "iqn.i".into(),
        target: target.map(str::to_owned),
        isid: [0; 6],
        tsih: 1,
        cid: 3,
        params,
        exp_cmd_sn: 10,
        stat_sn: 100,
    }
}

fn params() -> Params {
    Params {
        digests: Digests::default(),
        max_send_data: 4096,
        max_burst: 8192,
        first_burst: 2048,
        initial_r2t: false,
        immediate_data: true,
        max_outstanding_r2t: 2,
        ..Params::default()
    }
}

struct Rig {
    s: Session,
    cmd_sn: u32,
}

impl Rig {
    fn with(params: Params) -> Self {
        let mut s = Session::new(&login(params, Some("iqn.t0")), Attention::PowerOn);
        // Consume the unit attention.
        let unit = UnitState { blocks: BLOCKS, read_only: false };
        assert!(s.nexus.admit(0, &[0; 16], unit).is_err());
        Self { s, cmd_sn: 10 }
    }

    fn new() -> Self {
        Self::with(params())
    }

    fn pdu(&mut self, bhs: Bhs, data: &[u8]) -> Result<(), SessionError> {
        let unit = (self.s.target.is_some()).then_some(UnitState { blocks: BLOCKS, read_only: false });
        let env = Env { unit, targets: &Two };
        let pdu = OutPdu::new(bhs, Bytes::copy_from_slice(data));
        self.s.on_pdu(Pdu { bhs: pdu.bhs, ahs: Bytes::new(), data: pdu.data, data_ok: true }, &env)
    }

    fn command(&mut self, itt: u32, cdb: &[u8], expected: u32, write: bool, last: bool, data: &[u8]) {
        let mut c = [0; 16];
        c[..cdb.len()].copy_from_slice(cdb);
        let request = ScsiRequest {
            immediate: false,
            last,
            read: !write && expected > 0,
            write,
            attribute: 1,
            lun: 0,
            itt,
            expected,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: 0,
            cdb: c,
        };
        self.cmd_sn += 1;
        self.pdu(request.encode(), data).unwrap();
    }

    fn read(&mut self, itt: u32, blocks: u8, expected: u32) {
        self.command(itt, &[0x28, 0, 0, 0, 0, 0, 0, 0, blocks], expected, false, true, &[]);
    }

    fn write(&mut self, itt: u32, blocks: u8, last: bool, data: &[u8]) {
        self.command(itt, &[0x2a, 0, 0, 0, 0, 0, 0, 0, blocks], u32::from(blocks) * 512, true, last, data);
    }

    fn data(&mut self, itt: u32, ttt: u32, data_sn: u32, offset: u32, last: bool, len: usize) {
        let d = DataOut { last, lun: 0, itt, ttt, exp_stat_sn: 0, data_sn, offset };
        let bytes: Vec<u8> = (0..len).map(|i| ((offset as usize + i) / 512) as u8).collect();
        self.pdu(d.encode(), &bytes).unwrap();
    }

    fn tmf(&mut self, function: TaskFunction, referenced: u32, lun: u64) {
        let t = TaskRequest {
            immediate: true,
            function,
            lun,
            itt: 0x7000,
            referenced,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: 0,
            ref_cmd_sn: 0,
        };
        self.pdu(t.encode(), &[]).unwrap();
    }

    fn work(&mut self) -> Work {
        self.s.next_work(0).expect("a command to run")
    }

    fn out(&mut self) -> OutPdu {
        self.s.next_output().expect("a PDU to send")
    }

    fn response(&mut self) -> ScsiResponse {
        let pdu = self.out();
        assert_eq!(opcode_of(&pdu.bhs), opcode::SCSI_RESPONSE);
        ScsiResponse::decode(&pdu.bhs)
    }

    fn sense_code(&mut self) -> u16 {
        let pdu = self.out();
        assert_eq!((opcode_of(&pdu.bhs), ScsiResponse::decode(&pdu.bhs).status), (opcode::SCSI_RESPONSE, 2));
        assert_eq!(pdu.data[..2], [0, 18]);
        u16::from_be_bytes([pdu.data[14], pdu.data[15]])
    }

    fn rejected(&mut self) -> u8 {
        let pdu = self.out();
        assert_eq!((opcode_of(&pdu.bhs), pdu.data.len()), (opcode::REJECT, 48));
        Reject::decode(&pdu.bhs).reason
    }

    fn task_response(&mut self) -> u8 {
        let pdu = self.out();
        assert_eq!(opcode_of(&pdu.bhs), opcode::TASK_RESPONSE);
        TaskResponse::decode(&pdu.bhs).response
    }

    fn silent(&mut self) {
        assert_eq!(self.s.next_output(), None);
    }
}

fn good(n: usize) -> Completion {
    Completion::data(Bytes::from(vec![5; n]))
}

// ---- section 4.2.2: numbering

#[test]
fn status_carries_the_numbers_and_the_window_moves_with_completion() {
    let mut r = Rig::new();
    r.read(1, 1, 512);
    r.read(2, 1, 512);
    let (a, b) = (r.work(), r.work());
    assert_eq!((a.itt, b.itt), (1, 2));
    r.s.on_completion(2, good(512)); // out of order
    let d = DataIn::decode(&r.out().bhs);
    assert_eq!((d.itt, d.status, d.last), (2, Some(0), true));
    assert_eq!(d.numbers, Numbers { stat: 100, exp_cmd: 12, max_cmd: 12 + COMMAND_WINDOW - 2 });
    r.s.on_completion(1, good(512));
    let d = DataIn::decode(&r.out().bhs);
    assert_eq!(d.numbers, Numbers { stat: 101, exp_cmd: 12, max_cmd: 12 + COMMAND_WINDOW - 1 });
}

#[test]
fn commands_outside_the_window_are_ignored() {
    let mut r = Rig::new();
    for itt in 0..COMMAND_WINDOW {
        r.read(itt, 1, 512);
    }
    assert_eq!(r.s.in_progress(), 128);
    r.read(999, 1, 512); // the window is full
    r.cmd_sn = 11;
    r.read(1000, 1, 512); // a duplicate
    r.cmd_sn = 5000;
    r.read(1001, 1, 512); // far too high
    assert_eq!(r.s.in_progress(), 128);
    r.silent();
}

#[test]
fn a_gap_ends_the_session() {
    let mut r = Rig::new();
    let nop = NopOut { immediate: false, lun: 0, itt: 1, ttt: RESERVED_TAG, cmd_sn: 12, exp_stat_sn: 0 };
    assert_eq!(r.pdu(nop.encode(), &[]), Err(SessionError::Protocol("gap in CmdSN")));
}

#[test]
fn tags_in_use_reserved_tags_and_too_many_immediate_commands() {
    let mut r = Rig::new();
    r.read(1, 1, 512);
    r.read(1, 1, 512);
    assert_eq!(r.rejected(), RejectReason::TaskInProgress as u8);
    r.read(RESERVED_TAG, 1, 512);
    assert_eq!(r.rejected(), RejectReason::InvalidField as u8);
    for itt in 100..=100 + MAX_IMMEDIATE as u32 {
        let request = ScsiRequest {
            immediate: true,
            last: true,
            read: true,
            write: false,
            attribute: 1,
            lun: 0,
            itt,
            expected: 512,
            cmd_sn: r.cmd_sn,
            exp_stat_sn: 0,
            cdb: [0; 16],
        };
        r.pdu(request.encode(), &[]).unwrap();
    }
    assert_eq!(r.rejected(), RejectReason::TooManyImmediate as u8);
}

#[test]
fn ordered_tasks_wait_and_are_waited_for() {
    let mut r = Rig::new();
    let read = |r: &mut Rig, itt, attribute| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[8]) = (0x28, 1);
        let request = ScsiRequest {
            immediate: false,
            last: true,
            read: true,
            write: false,
            attribute,
            lun: 0,
            itt,
            expected: 512,
            cmd_sn: r.cmd_sn,
            exp_stat_sn: 0,
            cdb,
        };
        r.cmd_sn += 1;
        r.pdu(request.encode(), &[]).unwrap();
    };
    r.write(1, 1, true, &[]); // data still to come
    read(&mut r, 2, 1);
    read(&mut r, 3, 2);
    read(&mut r, 4, 1);
    assert_eq!(r.work().itt, 2);
    assert!(r.s.next_work(0).is_none());
    let r2t = ReadyToTransfer::decode(&r.out().bhs);
    r.data(1, r2t.ttt, 0, 0, true, 512);
    assert_eq!(r.work().itt, 1); // older than the ordered one, though its data came later
    r.s.on_completion(1, Completion::good());
    assert!(r.s.next_work(0).is_none());
    r.s.on_completion(2, good(512));
    assert_eq!(r.work().itt, 3);
    assert!(r.s.next_work(0).is_none());
    r.s.on_completion(3, good(512));
    assert_eq!(r.work().itt, 4);
}

// ---- section 11.7: Data-In and residuals

#[test]
fn data_in_is_split_by_segment_and_burst() {
    let mut r = Rig::new();
    r.read(1, 21, 21 * 512); // 10752 bytes: 4096 4096 | 2560
    r.work();
    r.s.on_completion(1, good(10752));
    let got: Vec<_> = std::iter::from_fn(|| r.s.next_output())
        .map(|p| (DataIn::decode(&p.bhs), p.data.len()))
        .map(|(d, n)| (d.data_sn, d.offset, n, d.last, d.status.is_some()))
        .collect();
    assert_eq!(got, [(0, 0, 4096, false, false), (1, 4096, 4096, true, false), (2, 8192, 2560, true, true)]);
}

#[test]
fn residuals_of_reads() {
    let mut r = Rig::new();
    r.read(1, 1, 1024);
    r.work();
    r.s.on_completion(1, good(512));
    let d = DataIn::decode(&r.out().bhs);
    assert_eq!((d.underflow, d.overflow, d.residual), (true, false, 512));
    r.read(2, 2, 512);
    r.work();
    r.s.on_completion(2, good(1024));
    let pdu = r.out();
    let d = DataIn::decode(&pdu.bhs);
    assert_eq!((d.underflow, d.overflow, d.residual, pdu.data.len()), (false, true, 512, 512));
    r.command(3, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 0, false, true, &[]);
    r.work();
    r.s.on_completion(3, good(1024));
    let d = r.response();
    assert_eq!((d.overflow, d.residual), (true, 1024));
    r.read(4, 1, 512);
    r.work();
    r.s.on_completion(4, Completion::check(Sense::field(1)));
    let d = r.response();
    assert_eq!((d.status, d.underflow, d.residual), (2, true, 512));
}

#[test]
fn residuals_of_writes() {
    let mut r = Rig::new();
    r.command(1, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2], 512, true, true, &[1; 512]);
    assert_eq!(r.work().data.len(), 512);
    r.s.on_completion(1, Completion::good());
    let d = r.response();
    assert_eq!((d.status, d.overflow, d.residual), (0, true, 512));
    r.command(2, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], 1024, true, true, &[1; 1024]);
    assert_eq!(r.work().data.len(), 512);
    r.s.on_completion(2, Completion::good());
    let d = r.response();
    assert_eq!((d.status, d.underflow, d.residual), (0, true, 512));
    // WRITE SAME insists on one block.
    r.command(3, &[0x41, 0, 0, 0, 0, 0, 0, 0, 2], 1024, true, true, &[1; 1024]);
    assert_eq!(r.sense_code(), code::INVALID_FIELD_IN_IU);
}

// ---- sections 11.3, 11.7, 11.8: Data-Out

#[test]
fn immediate_unsolicited_and_solicited_data() {
    let mut r = Rig::new();
    r.write(1, 40, false, &[0; 512]); // 20480 bytes: 512 immediate, 1536 unsolicited, rest by R2T of 8192
    r.silent();
    r.data(1, RESERVED_TAG, 0, 512, false, 1024);
    r.data(1, RESERVED_TAG, 1, 1536, true, 512);
    let r2ts: Vec<_> = [r.out(), r.out()].iter().map(|p| ReadyToTransfer::decode(&p.bhs)).collect();
    r.silent(); // two at a time
    assert_eq!(
        r2ts.iter().map(|x| (x.r2t_sn, x.offset, x.length)).collect::<Vec<_>>(),
        [(0, 2048, 8192), (1, 10240, 8192)]
    );
    assert_eq!(r2ts[0].numbers.stat, 100); // not consumed
    r.data(1, r2ts[0].ttt, 0, 2048, false, 4096);
    r.data(1, r2ts[0].ttt, 1, 6144, true, 4096);
    let third = ReadyToTransfer::decode(&r.out().bhs);
    assert_eq!((third.r2t_sn, third.offset, third.length), (2, 18432, 2048));
    r.data(1, r2ts[1].ttt, 0, 10240, true, 8192);
    r.data(1, third.ttt, 0, 18432, true, 2048);
    let work = r.work();
    assert_eq!(work.data.len(), 20480);
    assert!(work.data[2048..].chunks(512).enumerate().all(|(i, c)| c.iter().all(|b| usize::from(*b) == i + 4)));
    r.s.on_completion(1, Completion::good());
    let d = r.response();
    assert_eq!((d.status, d.exp_data_sn, d.residual), (0, 3, 0));
    assert_eq!(r.s.granted, 0);
}

#[test]
fn work_knows_when_the_last_of_its_data_was_read() {
    let mut r = Rig::new();
    let at = |n| Instant::now() + Duration::from_secs(n);
    let (first, last, later) = (at(1), at(2), at(3));
    r.s.set_now(first);
    r.write(1, 1, true, &[]);
    r.read(2, 1, 512);
    let r2t = ReadyToTransfer::decode(&r.out().bhs);
    r.s.set_now(last);
    r.data(1, r2t.ttt, 0, 0, true, 512);
    r.s.set_now(later);
    assert_eq!([r.work(), r.work()].map(|work| (work.itt, work.read)), [(2, first), (1, last)]);
    assert!(r.s.on_completion(2, good(512)), "it is answered");
    r.tmf(TaskFunction::AbortTask, 1, 0);
    assert!(!r.s.on_completion(1, Completion::good()), "it was aborted");
}

#[test]
fn initial_r2t_asks_for_everything() {
    let mut r = Rig::with(Params { initial_r2t: true, ..params() });
    r.write(1, 4, true, &[]);
    let r2t = ReadyToTransfer::decode(&r.out().bhs);
    assert_eq!((r2t.offset, r2t.length), (0, 2048));
    r.data(1, r2t.ttt, 0, 0, true, 2048);
    assert_eq!(r.work().data.len(), 2048);
    r.write(2, 4, false, &[]); // unsolicited data was not agreed on
    r.data(2, RESERVED_TAG, 0, 0, true, 2048);
    assert_eq!(r.sense_code(), code::UNEXPECTED_DATA);
}

#[test]
fn pushed_data_against_the_agreement() {
    let mut r = Rig::with(Params { immediate_data: false, ..params() });
    r.write(1, 1, true, &[0; 512]);
    assert_eq!(r.sense_code(), code::UNEXPECTED_DATA);
    let mut r = Rig::new();
    r.write(1, 8, true, &[0; 2560]); // above FirstBurstLength
    assert_eq!(r.sense_code(), code::NOT_ENOUGH_DATA);
    r.write(2, 8, false, &[0; 2048]);
    r.data(2, RESERVED_TAG, 0, 2048, true, 512);
    assert_eq!(r.sense_code(), code::NOT_ENOUGH_DATA);
}

#[test]
fn broken_sequences_fail_the_command_after_their_last_pdu() {
    for (data_sn, offset, len, want) in
        [(1, 0, 1024, code::CRC), (0, 512, 1024, code::NOT_ENOUGH_DATA), (0, 0, 4096, code::NOT_ENOUGH_DATA)]
    {
        let mut r = Rig::new();
        r.write(1, 4, true, &[]);
        let r2t = ReadyToTransfer::decode(&r.out().bhs);
        r.data(1, r2t.ttt, data_sn, offset, false, len);
        r.silent(); // the rest is still on its way
        r.data(1, r2t.ttt, data_sn + 1, 1024, true, 1024);
        assert_eq!(r.sense_code(), want);
        assert_eq!(r.s.granted, 0);
    }
    // F before all is there.
    let mut r = Rig::new();
    r.write(1, 4, true, &[]);
    let r2t = ReadyToTransfer::decode(&r.out().bhs);
    r.data(1, r2t.ttt, 0, 0, true, 1024);
    assert_eq!(r.sense_code(), code::NOT_ENOUGH_DATA);
}

#[test]
fn data_nobody_asked_for_is_rejected_and_data_of_aborted_tasks_dropped() {
    let mut r = Rig::new();
    r.write(1, 4, true, &[]);
    let r2t = ReadyToTransfer::decode(&r.out().bhs);
    r.data(1, r2t.ttt + 5, 0, 0, true, 2048);
    assert_eq!(r.rejected(), RejectReason::Protocol as u8);
    r.data(1, RESERVED_TAG, 0, 0, true, 2048);
    assert_eq!(r.rejected(), RejectReason::Protocol as u8);
    r.tmf(TaskFunction::AbortTask, 1, 0);
    assert_eq!(r.task_response(), 0);
    r.data(1, r2t.ttt, 0, 0, true, 2048);
    r.silent();
    assert!(r.s.next_work(0).is_none());
}

#[test]
fn data_digest_errors() {
    let mut r = Rig::new();
    r.write(1, 4, true, &[]);
    let r2t = ReadyToTransfer::decode(&r.out().bhs);
    let env = Env { unit: Some(UnitState { blocks: BLOCKS, read_only: false }), targets: &Two };
    let d = DataOut { last: true, lun: 0, itt: 1, ttt: r2t.ttt, exp_stat_sn: 0, data_sn: 0, offset: 0 };
    let broken = |bhs| Pdu { bhs, ahs: Bytes::new(), data: Bytes::from(vec![0; 2048]), data_ok: false };
    r.s.on_pdu(broken(d.encode()), &env).unwrap();
    assert_eq!(r.sense_code(), code::CRC);
    let nop = NopOut { immediate: true, lun: 0, itt: 1, ttt: RESERVED_TAG, cmd_sn: 11, exp_stat_sn: 0 };
    assert!(r.s.on_pdu(broken(nop.encode()), &env).is_err());
    assert_eq!(r.rejected(), RejectReason::DataDigest as u8);
}

#[test]
fn a_refused_write_swallows_its_unsolicited_data() {
    let mut r = Rig::new();
    r.command(1, &[0x2a, 0x20, 0, 0, 0, 0, 0, 0, 4], 2048, true, false, &[0; 512]);
    r.silent();
    r.data(1, RESERVED_TAG, 0, 512, true, 1536);
    assert_eq!(r.sense_code(), code::INVALID_FIELD);
    assert_eq!(r.s.in_progress(), 0);
}

#[test]
fn write_memory_is_granted_within_the_budget() {
    let mut r = Rig::with(Params { max_burst: 1 << 23, max_outstanding_r2t: 1, ..params() });
    let big = |r: &mut Rig, itt| r.command(itt, &[0xaa, 0, 0, 0, 0, 0, 0, 0, 0x80, 0], 1 << 24, true, true, &[]);
    for itt in 1..=5 {
        big(&mut r, itt);
    }
    for itt in 1..=4 {
        assert_eq!(ReadyToTransfer::decode(&r.out().bhs).itt, itt);
    }
    r.silent(); // 64 MiB are granted
    r.tmf(TaskFunction::AbortTask, 2, 0);
    let next: Vec<u8> = [r.out(), r.out()].iter().map(|p| opcode_of(&p.bhs)).collect();
    assert_eq!(next, [opcode::TASK_RESPONSE, opcode::R2T]);
}

#[test]
fn reads_start_within_the_budget() {
    let mut r = Rig::new();
    for itt in 1..=6 {
        r.command(itt, &[0xa8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0], 1 << 24, false, true, &[]);
    }
    let started = std::iter::from_fn(|| r.s.next_work(0)).count();
    assert_eq!(started, 4);
    r.s.on_completion(1, good(1 << 24));
    assert!(r.s.next_work(1 << 24).is_none()); // still in the send queue
    assert!(r.s.next_work(0).is_some());
    for itt in 2..=5 {
        r.s.on_completion(itt, good(1 << 24));
    }
    // Nothing runs, but an initiator that does not take its answers gets no further ones.
    assert!(r.s.next_work(4 << 24).is_none());
    assert!(r.s.next_work(0).is_some());
}

// ---- sections 11.5, 11.14: task management and logout

#[test]
fn aborts_wait_for_the_device() {
    let mut r = Rig::new();
    r.read(1, 1, 512);
    r.read(2, 1, 512);
    r.work();
    r.tmf(TaskFunction::AbortTask, 1, 0);
    r.silent();
    r.s.on_completion(1, good(512));
    assert_eq!(r.task_response(), 0);
    r.silent(); // no answer to the task itself
    r.tmf(TaskFunction::AbortTask, 1, 0);
    assert_eq!(r.task_response(), TaskResponseCode::NoTask as u8);
    r.tmf(TaskFunction::AbortTaskSet, 0, 0);
    assert_eq!(r.task_response(), 0);
    assert_eq!(r.s.in_progress(), 0);
    assert!(r.s.next_work(0).is_none());
}

#[test]
fn functions_that_are_not_there() {
    let mut r = Rig::new();
    for (function, want) in [
        (TaskFunction::ClearAca, TaskResponseCode::Unsupported),
        (TaskFunction::TaskReassign, TaskResponseCode::NoReassign),
        (TaskFunction::Unknown(77), TaskResponseCode::Rejected),
    ] {
        r.tmf(function, 0, 0);
        assert_eq!(r.task_response(), want as u8);
    }
    r.tmf(TaskFunction::LogicalUnitReset, 0, 5 << 48);
    assert_eq!(r.task_response(), TaskResponseCode::NoLun as u8);
}

#[test]
fn resets_wait_for_other_sessions_and_leave_an_attention() {
    let mut r = Rig::new();
    r.read(1, 1, 512);
    r.tmf(TaskFunction::LogicalUnitReset, 0, 0);
    let Some(Event::ResetOthers { ticket, attention: Attention::Reset, drop_sessions: false }) = r.s.next_event()
    else {
        panic!("no event")
    };
    r.silent();
    r.s.on_others_done(ticket);
    assert_eq!(r.task_response(), 0);
    r.read(2, 1, 512);
    assert_eq!(r.sense_code(), code::RESET);

    let mut other = Rig::new();
    other.read(1, 1, 512);
    other.work();
    other.s.reset_by_other(Some(Attention::CommandsCleared), 9);
    assert_eq!(other.s.next_event(), None);
    other.s.on_completion(1, good(512));
    assert_eq!(other.s.next_event(), Some(Event::ResetDone(9)));
    other.silent();
    other.read(2, 1, 512);
    assert_eq!(other.sense_code(), code::COMMANDS_CLEARED);
}

#[test]
fn cold_reset_ends_the_session() {
    let mut r = Rig::new();
    r.tmf(TaskFunction::TargetColdReset, 0, 0);
    let Some(Event::ResetOthers { ticket, drop_sessions: true, .. }) = r.s.next_event() else { panic!("no event") };
    r.s.on_others_done(ticket);
    assert_eq!(r.task_response(), 0);
    assert!(r.s.is_closing());
}

#[test]
fn waiting_task_management_is_bounded() {
    let mut r = Rig::new();
    for _ in 0..64 {
        r.tmf(TaskFunction::LogicalUnitReset, 0, 0);
    }
    r.silent();
    r.tmf(TaskFunction::LogicalUnitReset, 0, 0);
    assert_eq!(r.rejected(), RejectReason::TooManyImmediate as u8);
}

#[test]
fn waiting_logouts_are_bounded() {
    let mut r = Rig::new();
    r.read(1, 1, 512);
    r.work();
    let logout = LogoutRequest { immediate: true, reason: 0, itt: 8, cid: 3, cmd_sn: 11, exp_stat_sn: 0 };
    for _ in 0..64 {
        r.pdu(logout.encode(), &[]).unwrap();
    }
    r.silent();
    r.pdu(logout.encode(), &[]).unwrap();
    assert_eq!(r.rejected(), RejectReason::TooManyImmediate as u8);
}

#[test]
fn logout_drains_answers_and_closes() {
    let mut r = Rig::new();
    r.read(1, 1, 512);
    r.work();
    let logout =
        |reason, cid| LogoutRequest { immediate: true, reason, itt: 8, cid, cmd_sn: 11, exp_stat_sn: 0 }.encode();
    for (reason, cid, want) in [(2, 3, 2), (1, 4, 1)] {
        r.pdu(logout(reason, cid), &[]).unwrap();
        assert_eq!(LogoutResponse::decode(&r.out().bhs).response, want);
        assert!(!r.s.is_closing());
    }
    r.pdu(logout(1, 3), &[]).unwrap();
    r.silent();
    r.s.on_completion(1, good(512));
    assert_eq!(LogoutResponse::decode(&r.out().bhs).response, 0);
    assert!(r.s.is_closing());
    r.pdu([0; 48], &[]).unwrap();
    r.silent();
}

// ---- sections 11.10, 11.18: text and NOP

#[test]
fn pings_both_ways() {
    let mut r = Rig::new();
    let nop =
        |itt, ttt, cmd_sn| NopOut { immediate: itt == RESERVED_TAG, lun: 0, itt, ttt, cmd_sn, exp_stat_sn: 0 }.encode();
    r.pdu(nop(5, RESERVED_TAG, 10), b"hello").unwrap();
    let pdu = r.out();
    let answer = NopIn::decode(&pdu.bhs);
    assert_eq!((answer.itt, answer.ttt, answer.numbers.exp_cmd, &pdu.data[..]), (5, RESERVED_TAG, 11, &b"hello"[..]));
    assert!(r.s.ping());
    let ping = NopIn::decode(&r.out().bhs);
    assert_eq!((ping.itt, ping.numbers.stat), (RESERVED_TAG, 101));
    assert!(!r.s.ping()); // not answered yet
    r.pdu(nop(RESERVED_TAG, ping.ttt, 11), &[]).unwrap();
    r.silent();
    assert!(r.s.ping());
    assert_eq!(NopIn::decode(&r.out().bhs).numbers.stat, 101); // the first did not take the number
}

#[test]
fn the_answer_to_a_ping_keeps_no_read_buffer() {
    let mut r = Rig::new();
    let buffer = Bytes::from(vec![7; 4096]);
    let nop = NopOut { immediate: true, lun: 0, itt: 5, ttt: RESERVED_TAG, cmd_sn: 10, exp_stat_sn: 0 };
    let pdu = Pdu { bhs: nop.encode(), ahs: Bytes::new(), data: buffer.slice(..1), data_ok: true };
    r.s.on_pdu(pdu, &Env { unit: None, targets: &Two }).unwrap();
    assert_eq!(r.out().data[..], [7]);
    assert!(buffer.is_unique());
}

fn text(r: &mut Rig, ttt: u32, last: bool, more: bool, data: &[u8]) -> (TextResponse, String) {
    let request = TextRequest { immediate: true, last, more, lun: 0, itt: 4, ttt, cmd_sn: 10, exp_stat_sn: 0 };
    r.pdu(request.encode(), data).unwrap();
    let pdu = r.out();
    assert_eq!(opcode_of(&pdu.bhs), opcode::TEXT_RESPONSE);
    (TextResponse::decode(&pdu.bhs), String::from_utf8(pdu.data.to_vec()).unwrap())
}

#[test]
fn send_targets_is_continued_when_long() {
    let s = Session::new(&login(params(), None), Attention::PowerOn);
    let mut r = Rig { s, cmd_sn: 10 };
    let (mut response, mut all) = text(&mut r, RESERVED_TAG, true, false, b"SendTargets=All\0");
    assert!(response.more && !response.last && response.ttt != RESERVED_TAG && all.len() == 4096);
    while !response.last {
        let (next, piece) = text(&mut r, response.ttt, true, false, &[]);
        all += &piece;
        response = next;
    }
    assert_eq!(response.ttt, RESERVED_TAG);
    assert_eq!(all.matches("TargetName=").count(), 400);
    assert_eq!(all.matches("TargetAddress=10.0.0.1:3260,1\0").count(), 400);
    assert_eq!(text(&mut r, RESERVED_TAG, true, false, b"SendTargets=iqn.t7\0").1.matches("TargetName=").count(), 1);
    assert_eq!(text(&mut r, RESERVED_TAG, true, false, b"SendTargets=iqn.none\0").1, "");
    // Section 4.3: no SCSI in a discovery session.
    r.read(1, 1, 512);
    assert_eq!(r.rejected(), RejectReason::Unsupported as u8);
}

#[test]
fn text_in_a_normal_session() {
    let mut r = Rig::new();
    assert_eq!(text(&mut r, RESERVED_TAG, true, false, b"SendTargets=\0").1.matches("iqn.t0\0").count(), 1);
    assert_eq!(text(&mut r, RESERVED_TAG, true, false, b"SendTargets=All\0").1, "SendTargets=Reject\0");
    assert_eq!(text(&mut r, RESERVED_TAG, true, false, b"X-a=1\0").1, "X-a=NotUnderstood\0");
    assert_eq!(text(&mut r, RESERVED_TAG, true, false, b"MaxRecvDataSegmentLength=512\0").1, "");
    assert_eq!(r.s.params.max_send_data, 512);
    let (response, _) = text(&mut r, RESERVED_TAG, false, true, b"X-b");
    assert!(!response.last && response.ttt != RESERVED_TAG);
    assert_eq!(text(&mut r, response.ttt, true, false, b"=1\0").1, "X-b=NotUnderstood\0");
    let request =
        TextRequest { immediate: true, last: true, more: false, lun: 0, itt: 4, ttt: 99, cmd_sn: 10, exp_stat_sn: 0 };
    r.pdu(request.encode(), &[]).unwrap();
    assert_eq!(r.rejected(), RejectReason::InvalidField as u8);
}

#[test]
fn unknown_and_misplaced_pdus() {
    let mut r = Rig::new();
    for (op, want) in
        [(0x0a, RejectReason::Unsupported), (0x21, RejectReason::Unsupported), (0x10, RejectReason::Snack)]
    {
        let mut bhs = [0; 48];
        bhs[0] = op;
        r.pdu(bhs, &[]).unwrap();
        assert_eq!(r.rejected(), want as u8);
    }
    let mut bhs = [0; 48];
    bhs[0] = opcode::LOGIN_REQUEST;
    assert!(r.pdu(bhs, &[]).is_err());
    r.s.announce(AsyncEvent::RequestLogout(3));
    assert_eq!(r.rejected(), RejectReason::Protocol as u8);
    let message = AsyncMessage::decode(&r.out().bhs);
    assert_eq!((message.event, message.parameter3), (1, 3));
}

proptest! {
    // Whatever comes: no panic, bounded tasks and memory, and everything ends when the device has answered.
    #[test]
    fn arbitrary_pdus_never_panic(
        pdus in prop::collection::vec((prop::collection::vec(any::<u8>(), 48), 0usize..3000, 0u8..12), 1..60),
    ) {
        let mut r = Rig::new();
        for (header, len, kind) in pdus {
            let mut bhs = [0; 48];
            bhs.copy_from_slice(&header);
            bhs[0] = [0, 1, 1, 1, 1, 2, 4, 5, 5, 5, 0x10, 6][usize::from(kind)] | (bhs[0] & 0x40);
            bhs[16..20].copy_from_slice(&[0, 0, 0, header[19] & 3]);
            bhs[20..22].fill(0);
            if kind < 7 {
                bhs[24..28].copy_from_slice(&r.s.exp_cmd_sn.to_be_bytes());
            }
            if kind > 0 && kind < 5 {
                bhs[8..16].fill(0);
                bhs[32] = [0x28, 0x2a, 0x41, 0x42][usize::from(kind) - 1];
            }
            if r.pdu(bhs, &vec![0; len]).is_err() || r.s.is_closing() {
                break;
            }
            if header[47] & 1 == 0 && let Some(work) = r.s.next_work(0) {
                r.s.on_completion(work.itt, good(work.command.data_in()));
            }
            while let Some(event) = r.s.next_event() {
                if let Event::ResetOthers { ticket, .. } = event {
                    r.s.on_others_done(ticket);
                }
            }
            prop_assert!(r.s.in_progress() <= COMMAND_WINDOW as usize + MAX_IMMEDIATE);
            prop_assert!(r.s.granted <= MAX_SESSION_DATA);
        }
        while let Some(work) = r.s.next_work(0) {
            r.s.on_completion(work.itt, good(0));
        }
        prop_assert_eq!(r.s.reading, 0);
    }
}
