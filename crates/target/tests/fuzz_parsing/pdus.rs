//! PDUs for a session: as the model says they should be, then, when the story is a wild one, bent.

use ballast_target::iscsi::keys::Params;
use ballast_target::iscsi::pdu::*;
use ballast_target::iscsi::text;
use ballast_target::scsi::opcodes::decode;
use bytes::Bytes;

use crate::cdb;
use crate::model::Model;
use crate::random::Rng;
use crate::rig;

static ZEROES: [u8; 256 * 1024] = [0; 256 * 1024];

pub fn zeroes(len: usize) -> Bytes {
    Bytes::from_static(&ZEROES[..len.min(ZEROES.len())])
}

/// Who makes the PDUs of one story.
pub struct Maker {
    pub params: Params,
    /// Percentage of PDUs that are bent.
    pub wild: u64,
    /// Commands for a big unit, whose data is only counted.
    pub big: bool,
    pub itt: u32,
}

impl Maker {
    pub fn new(params: Params, wild: u64, big: bool, itt: u32) -> Self {
        Self { params, wild, big, itt }
    }

    fn bend(&self, rng: &mut Rng) -> bool {
        rng.percent(self.wild)
    }

    fn new_itt(&mut self, rng: &mut Rng, model: &Model) -> u32 {
        self.itt = self.itt.wrapping_add(1);
        if self.itt == RESERVED_TAG {
            self.itt = 0;
        }
        if self.bend(rng) { self.some_itt(rng, model) } else { self.itt }
    }

    /// A tag that is in use, if there is one.
    fn some_itt(&self, rng: &mut Rng, model: &Model) -> u32 {
        let at = rng.index(model.tasks.len() + 1);
        model.tasks.keys().nth(at).copied().unwrap_or_else(|| rng.edge())
    }

    fn cmd_sn(&self, rng: &mut Rng, model: &Model) -> u32 {
        if rng.percent(self.wild / 4) {
            let near = (rng.below(300) as u32).wrapping_sub(150);
            return if rng.percent(50) { model.exp_cmd_sn.wrapping_add(near) } else { rng.edge() };
        }
        model.exp_cmd_sn
    }

    fn lun(&self, rng: &mut Rng) -> u64 {
        if self.bend(rng) { *rng.pick(&[1 << 48, 0x4000 << 48, 0x4001 << 48, u64::MAX]) } else { 0 }
    }

    /// Any of the requests, with the weights of a busy initiator.
    pub fn any(&mut self, rng: &mut Rng, model: &Model) -> Pdu {
        let pdu = match rng.below(100) {
            0..50 => self.command(rng, model),
            50..80 => self.data_out(rng, model).unwrap_or_else(|| self.command(rng, model)),
            80..86 => self.task_management(rng, model),
            86..91 => self.nop(rng, model),
            91..97 => self.text(rng, model),
            97 => self.logout(rng, model),
            _ if self.wild == 0 => self.command(rng, model),
            _ => {
                let mut bhs = [0; BHS_LEN];
                bhs.copy_from_slice(&rng.bytes(BHS_LEN));
                bhs[0] = *rng.pick(&[0x03, 0x10, 0x07, 0x1c, 0x20, 0x21, 0x25, 0x3f, 0x43]);
                self.pdu(bhs, zeroes(rng.index(100)))
            }
        };
        self.bent(rng, pdu)
    }

    fn pdu(&self, bhs: Bhs, data: Bytes) -> Pdu {
        let OutPdu { bhs, data } = OutPdu::new(bhs, data);
        Pdu { bhs, ahs: Bytes::new(), data, data_ok: true }
    }

    fn bent(&self, rng: &mut Rng, mut pdu: Pdu) -> Pdu {
        if self.wild > 0 && rng.percent(3) {
            rng.damage(&mut pdu.bhs);
        }
        if self.wild > 0 && rng.percent(3) {
            let words = 1 + rng.index(40);
            pdu.ahs = Bytes::from(rng.bytes(4 * words));
        }
        // Without a digest there is none that could be wrong.
        if self.wild > 0 && !pdu.data.is_empty() {
            let often = if opcode_of(&pdu.bhs) == opcode::DATA_OUT { 5 } else { 1 };
            pdu.data_ok = !(self.params.digests.data && rng.percent(often));
        }
        pdu
    }

    pub fn command(&mut self, rng: &mut Rng, model: &Model) -> Pdu {
        let cdb = if self.big { big_cdb(rng) } else { cdb::any(rng) };
        let command = decode(&cdb);
        let (out, back) = command.map_or((0, 0), |c| (c.data_out(), c.data_in()));
        let (mut write, mut expected) = (out > 0, if out > 0 { out } else { back as u64 } as u32);
        if self.bend(rng) {
            write = rng.percent(50);
            expected = if rng.percent(50) { rng.edge() } else { expected.wrapping_add(rng.below(2000) as u32) };
        }
        let most = self.params.first_burst.min(expected) as usize;
        let mut pushed = match write && self.params.immediate_data {
            true => most.min(*rng.pick(&[0, 512, 4096, 8192, 65536, 256 * 1024])),
            false => 0,
        };
        let mut last = !write || self.params.initial_r2t || pushed == most || rng.percent(50);
        if self.bend(rng) {
            (pushed, last) = (rng.index(10_000), rng.percent(50));
        }
        let data = match command {
            Ok(command) if pushed <= 4096 => cdb::data_for(rng, &command, pushed),
            _ => zeroes(pushed),
        };
        let request = ScsiRequest {
            immediate: rng.percent(10),
            last,
            read: !write && expected > 0 || self.bend(rng),
            write,
            attribute: if rng.percent(10) { rng.below(8) as u8 } else { 1 },
            lun: self.lun(rng),
            itt: self.new_itt(rng, model),
            expected,
            cmd_sn: self.cmd_sn(rng, model),
            exp_stat_sn: rng.word(),
            cdb,
        };
        self.pdu(request.encode(), data)
    }

    /// The next data that some command waits for.
    pub fn data_out(&mut self, rng: &mut Rng, model: &Model) -> Option<Pdu> {
        let waiting = |t: &&crate::model::Task| t.unsolicited.is_some() || !t.asked.is_empty();
        let n = model.tasks.values().filter(waiting).count();
        if n == 0 && self.wild == 0 {
            return None;
        }
        let (itt, task) = match n {
            0 => (rng.edge(), None),
            n => model.tasks.iter().filter(|(_, t)| waiting(t)).nth(rng.index(n)).map(|(itt, t)| (*itt, Some(t)))?,
        };
        let (ttt, sn, offset, end) = match task {
            Some(task) => match (task.unsolicited, task.asked.first()) {
                (Some((sn, at)), _) => (RESERVED_TAG, sn, at, self.params.first_burst.min(task.expected)),
                (None, Some(a)) => (a.ttt, a.sn, a.offset + a.got, a.offset + a.length),
                (None, None) => return None,
            },
            None => (rng.edge(), 0, 0, 0),
        };
        let left = end.saturating_sub(offset);
        let len = left.min(*rng.pick(&[512, 4096, 8192, 65536, 256 * 1024, 256 * 1024]));
        let mut d = DataOut { last: len == left, lun: 0, itt, ttt, exp_stat_sn: 0, data_sn: sn, offset };
        let mut data = zeroes(len as usize);
        if self.bend(rng) {
            match rng.below(6) {
                0 => d.ttt = if rng.percent(50) { rng.edge() } else { d.ttt.wrapping_add(1) },
                1 => d.itt = self.some_itt(rng, model),
                2 => d.data_sn = rng.edge(),
                3 => d.offset = if rng.percent(50) { rng.edge() } else { offset.wrapping_add(512) },
                4 => data = zeroes(rng.index(300_000)),
                _ => d.last = !d.last,
            }
        }
        Some(self.pdu(d.encode(), data))
    }

    pub fn task_management(&mut self, rng: &mut Rng, model: &Model) -> Pdu {
        let function = match rng.below(20) {
            0..12 => TaskFunction::AbortTask,
            12..14 => TaskFunction::AbortTaskSet,
            14 => TaskFunction::ClearAca,
            15 => TaskFunction::ClearTaskSet,
            16 => TaskFunction::LogicalUnitReset,
            17 => TaskFunction::TargetWarmReset,
            18 if rng.percent(20) => TaskFunction::TargetColdReset,
            18 => TaskFunction::TaskReassign,
            _ => TaskFunction::Unknown(rng.byte()),
        };
        let request = TaskRequest {
            immediate: rng.percent(80),
            function,
            lun: self.lun(rng),
            itt: self.new_itt(rng, model),
            referenced: self.some_itt(rng, model),
            cmd_sn: self.cmd_sn(rng, model),
            exp_stat_sn: 0,
            ref_cmd_sn: rng.edge(),
        };
        self.pdu(request.encode(), Bytes::new())
    }

    pub fn nop(&mut self, rng: &mut Rng, model: &Model) -> Pdu {
        let answer = rng.percent(30);
        let nop = NopOut {
            immediate: answer || rng.percent(50),
            lun: self.lun(rng),
            itt: if answer { RESERVED_TAG } else { self.new_itt(rng, model) },
            ttt: if answer { rng.below(50) as u32 } else { RESERVED_TAG },
            cmd_sn: self.cmd_sn(rng, model),
            exp_stat_sn: 0,
        };
        let len = if rng.percent(20) { rng.index(9000) } else { 0 };
        self.pdu(nop.encode(), zeroes(len))
    }

    pub fn text(&mut self, rng: &mut Rng, model: &Model) -> Pdu {
        let mut data = Vec::new();
        match rng.below(6) {
            0 => text::put(&mut data, "SendTargets", "All"),
            1 => text::put(&mut data, "SendTargets", rig::TARGET),
            2 => text::put(&mut data, "MaxRecvDataSegmentLength", &self.params.max_send_data.to_string()),
            3 => data = rng.bytes(20),
            4 => data = vec![b'x'; 8000],
            _ => {}
        }
        let go_on = rng.percent(40);
        let more = rng.percent(30);
        let request = TextRequest {
            immediate: rng.percent(50),
            last: !more && rng.percent(80),
            more,
            lun: 0,
            // An exchange keeps its tag.
            itt: if go_on { 0x7e47 } else { self.new_itt(rng, model) },
            ttt: if go_on { model.text_ttt } else { RESERVED_TAG },
            cmd_sn: self.cmd_sn(rng, model),
            exp_stat_sn: 0,
        };
        self.pdu(request.encode(), Bytes::from(data))
    }

    pub fn logout(&mut self, rng: &mut Rng, model: &Model) -> Pdu {
        let request = LogoutRequest {
            immediate: rng.percent(50),
            reason: rng.below(4) as u8,
            itt: self.new_itt(rng, model),
            cid: if rng.percent(50) { rig::CID } else { rng.edge() as u16 },
            cmd_sn: self.cmd_sn(rng, model),
            exp_stat_sn: 0,
        };
        self.pdu(request.encode(), Bytes::new())
    }
}

/// READ(16), WRITE(16) and others of sizes up to and beyond what is allowed.
fn big_cdb(rng: &mut Rng) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = *rng.pick(&[0x88, 0x88, 0x8a, 0x8a, 0x8a, 0x8b, 0x8e, 0x8f, 0x91, 0x93]);
    cdb[9] = rng.byte();
    let blocks: u32 = *rng.pick(&[0, 1, 8, 256, 2048, 16_384, 32_768, 32_768, 32_769]);
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
