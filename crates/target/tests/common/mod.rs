//! A small initiator and a device that can be held, for tests over loopback TCP.
// Each test file uses its part; in tests an unwrap is an assertion.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ballast_target::iscsi::digest::Digests;
use ballast_target::iscsi::framing::{Deframer, WirePdu};
use ballast_target::iscsi::pdu::*;
use ballast_target::latency::{Exchange, leader_answered};
use ballast_target::{
    BlockDevice, DeviceError, Extent, Geometry, MemoryDevice, ServerConfig, TargetAccess, TargetServer,
};
use bytes::{BufMut, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

pub const IQN: &str = "iqn.2026-01.test:one";
pub const SIZE: u64 = 64 << 20;

/// A memory device whose writes can be held back and made to fail.
pub struct Held {
    pub memory: MemoryDevice,
    open: watch::Sender<bool>,
    started: watch::Sender<u64>,
    error: Mutex<Option<DeviceError>>,
    no_leader: AtomicBool,
}

impl Held {
    pub fn new() -> Self {
        Self {
            memory: MemoryDevice::new(SIZE, "held", [7; 16]),
            open: watch::Sender::new(true),
            started: watch::Sender::new(0),
            error: Mutex::new(None),
            no_leader: AtomicBool::new(false),
        }
    }

    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// The next call fails.
    pub fn fail(&self, error: DeviceError) {
        *self.error.lock().unwrap() = Some(error);
    }

    /// The next read or write asks no leader.
    pub fn skip_leader(&self) {
        self.no_leader.store(true, Ordering::SeqCst);
    }

    /// What a call tells of its time, as a volume does.
    fn answered(&self, sent: Instant) {
        if !self.no_leader.swap(false, Ordering::SeqCst) {
            leader_answered(Exchange { sent, answered: Instant::now() });
        }
    }

    /// Waits until so many writes have begun.
    pub async fn begun(&self, n: u64) {
        self.started.subscribe().wait_for(|s| *s >= n).await.unwrap();
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.error.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

impl BlockDevice for Held {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError> {
        self.check()?;
        let sent = Instant::now();
        let data = self.memory.read(offset, len).await;
        self.answered(sent);
        data
    }

    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), DeviceError> {
        self.check()?;
        self.started.send_modify(|n| *n += 1);
        let sent = Instant::now();
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let done = self.memory.write(offset, data, fua).await;
        self.answered(sent);
        done
    }

    async fn update(
        &self,
        offset: u64,
        len: u32,
        change: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<(), DeviceError> {
        self.check()?;
        self.memory.update(offset, len, change).await
    }

    async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, DeviceError> {
        self.memory.extents(offset, len).await
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check()?;
        self.memory.unmap(offset, len).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check()?;
        self.memory.write_zeroes(offset, len).await
    }

    async fn load_state(&self) -> Result<Bytes, DeviceError> {
        self.memory.load_state().await
    }

    async fn save_state(&self, state: Bytes) -> Result<(), DeviceError> {
        self.check()?;
        self.memory.save_state(state).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.check()
    }
}

/// A server on a free port with one target.
pub async fn serve(change: impl FnOnce(&mut ServerConfig)) -> (TargetServer<Held>, SocketAddr, Arc<Held>) {
    let mut config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
    change(&mut config);
    let (server, run) = TargetServer::bind(config).await.unwrap();
    tokio::spawn(run);
    let device = Arc::new(Held::new());
    server.add_target(IQN.into(), device.clone(), TargetAccess::default()).unwrap();
    let address = server.local_addrs()[0];
    (server, address, device)
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: u8,
    pub sense: Vec<u8>,
    pub data: Vec<u8>,
    pub residual: u32,
}

impl Outcome {
    pub fn code(&self) -> u16 {
        assert_eq!(self.status, 2, "CHECK CONDITION expected");
        u16::from_be_bytes([self.sense[12], self.sense[13]])
    }
}

/// A login that was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

pub struct Initiator {
    stream: TcpStream,
    deframer: Deframer,
    pub digests: Digests,
    pub cmd_sn: u32,
    exp_stat_sn: u32,
    itt: u32,
    pub keys: Vec<(String, String)>,
    /// Answers the target's pings by itself instead of handing them out.
    pub answers_pings: bool,
}

pub fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut c = [0; 16];
    c[..bytes.len()].copy_from_slice(bytes);
    c
}

pub fn rw16(op: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut c = cdb(&[op]);
    c[2..10].copy_from_slice(&lba.to_be_bytes());
    c[10..14].copy_from_slice(&blocks.to_be_bytes());
    c
}

fn who(name: &str, target: Option<&str>) -> String {
    let target = target.map_or("SessionType=Discovery".to_owned(), |t| format!("TargetName={t}"));
    format!("InitiatorName={name}\n{target}\n")
}

impl Initiator {
    /// Logs in straight to the operational stage.
    pub async fn login(
        address: SocketAddr,
        name: &str,
        isid: u8,
        target: Option<&str>,
        keys: &str,
    ) -> Result<Self, Refused> {
        let mut me = Self::connect(address).await;
        let text = format!("{}MaxRecvDataSegmentLength=65536\n{keys}", who(name, target));
        let pdu = me.ask(1, 3, isid, &text).await?;
        me.enter(&pdu)
    }

    /// Logs in by CHAP with SHA-256.
    pub async fn login_chap(
        address: SocketAddr,
        name: &str,
        target: Option<&str>,
        (user, secret): (&str, &str),
    ) -> Result<Self, Refused> {
        let mut me = Self::connect(address).await;
        me.ask(0, 1, 1, &format!("{}AuthMethod=CHAP,None\n", who(name, target))).await?;
        let pdu = me.ask(0, 1, 1, "CHAP_A=7,5\n").await?;
        me.keys = ballast_target::iscsi::text::parse(&pdu.data).unwrap();
        assert_eq!(me.key("CHAP_A"), Some("7"));
        let id = [me.key("CHAP_I").unwrap().parse().unwrap()];
        let challenge = &me.key("CHAP_C").unwrap()[2..];
        let challenge = data_encoding::HEXLOWER.decode(challenge.as_bytes()).unwrap();
        let hash = Sha256::new().chain_update(id).chain_update(secret).chain_update(challenge).finalize();
        let answer = data_encoding::HEXLOWER.encode(&hash);
        me.ask(0, 1, 1, &format!("CHAP_N={user}\nCHAP_R=0x{answer}\n")).await?;
        let pdu = me.ask(1, 3, 1, "").await?;
        me.enter(&pdu)
    }

    async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            deframer: Deframer::new(1 << 24),
            digests: Digests::default(),
            cmd_sn: 1,
            exp_stat_sn: 0,
            itt: 1,
            keys: Vec::new(),
            answers_pings: false,
        }
    }

    /// One login request of a stage and its answer.
    async fn ask(&mut self, csg: u8, nsg: u8, isid: u8, text: &str) -> Result<Pdu, Refused> {
        let request = LoginRequest {
            transit: true,
            more: false,
            csg,
            nsg,
            version_max: 0,
            version_min: 0,
            isid: [0x80, 0, 0, 0, 0, isid],
            tsih: 0,
            itt: 0,
            cid: 0,
            cmd_sn: 1,
            exp_stat_sn: 0,
        };
        self.send(request.encode(), text.replace('\n', "\0").as_bytes()).await;
        let pdu = self.recv().await.expect("a login response");
        match LoginResponse::decode(&pdu.bhs).status {
            0 => Ok(pdu),
            status => Err(Refused(status)),
        }
    }

    /// Takes over what the last login response agreed on.
    fn enter(mut self, pdu: &Pdu) -> Result<Self, Refused> {
        let response = LoginResponse::decode(&pdu.bhs);
        assert!(response.transit && response.tsih != 0);
        self.exp_stat_sn = response.numbers.stat.wrapping_add(1);
        self.keys = ballast_target::iscsi::text::parse(&pdu.data).unwrap();
        let on = |key: &str| self.key(key) == Some("CRC32C");
        self.digests = Digests { header: on("HeaderDigest"), data: on("DataDigest") };
        self.deframer.set_full_feature(self.digests, 65536);
        Ok(self)
    }

    /// A session that is past its first unit attention.
    pub async fn ready(address: SocketAddr, name: &str, isid: u8, keys: &str) -> Self {
        Self::ready_at(address, name, isid, IQN, keys).await
    }

    /// The same with another target.
    pub async fn ready_at(address: SocketAddr, name: &str, isid: u8, target: &str, keys: &str) -> Self {
        let mut me = Self::login(address, name, isid, Some(target), keys).await.unwrap();
        assert_eq!(me.command(cdb(&[0]), &[], 0).await.code(), 0x2900);
        me
    }

    pub fn key(&self, key: &str) -> Option<&str> {
        self.keys.iter().find(|k| k.0 == key).map(|k| k.1.as_str())
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        // The target may close at any time: what it then does not take does not matter.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Says that nothing more comes; answers can still be read.
    pub async fn close_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    pub async fn send(&mut self, bhs: Bhs, data: &[u8]) {
        let pdu = WirePdu::new(OutPdu::new(bhs, Bytes::copy_from_slice(data)), self.digests);
        self.raw(&pdu.pieces().concat()).await;
    }

    /// The next PDU; `None` when the target has closed.
    pub async fn recv(&mut self) -> Option<Pdu> {
        loop {
            if let Some(pdu) = self.deframer.next_pdu().unwrap() {
                assert!(pdu.data_ok);
                let ping = NopIn::decode(&pdu.bhs);
                if self.answers_pings && opcode_of(&pdu.bhs) == opcode::NOP_IN && ping.itt == RESERVED_TAG {
                    let (lun, itt, ttt) = (ping.lun, RESERVED_TAG, ping.ttt);
                    let answer = NopOut { immediate: true, lun, itt, ttt, cmd_sn: self.cmd_sn, exp_stat_sn: 0 };
                    self.send(answer.encode(), &[]).await;
                    continue;
                }
                return Some(pdu);
            }
            let mut space = self.deframer.space();
            assert!(space.remaining_mut() > 0);
            match self.stream.read_buf(&mut space).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<Pdu> {
        let mut all = Vec::new();
        while let Some(pdu) = self.recv().await {
            all.push(pdu);
        }
        all
    }

    pub fn new_itt(&mut self) -> u32 {
        self.itt += 1;
        self.itt
    }

    /// Sends a command; `data` goes with it as far as `pushed` bytes.
    pub async fn start(&mut self, cdb: [u8; 16], data: &[u8], expected: u32, pushed: usize) -> u32 {
        let itt = self.new_itt();
        let write = !data.is_empty();
        let request = ScsiRequest {
            immediate: false,
            last: true,
            read: !write && expected > 0,
            write,
            attribute: 1,
            lun: 0,
            itt,
            expected: if write { data.len() as u32 } else { expected },
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
        };
        self.cmd_sn += 1;
        self.send(request.encode(), &data[..pushed.min(data.len())]).await;
        itt
    }

    /// Runs a command to its end, answering R2Ts in segments of 64 KiB.
    pub async fn command(&mut self, cdb: [u8; 16], data: &[u8], expected: u32) -> Outcome {
        let itt = self.start(cdb, data, expected, 4096).await;
        self.finish(itt, data).await
    }

    pub async fn finish(&mut self, itt: u32, data: &[u8]) -> Outcome {
        let mut got = Vec::new();
        loop {
            let pdu = self.recv().await.expect("a response");
            assert_eq!(itt_of(&pdu.bhs), itt, "{:02x}", opcode_of(&pdu.bhs));
            match opcode_of(&pdu.bhs) {
                opcode::DATA_IN => {
                    let d = DataIn::decode(&pdu.bhs);
                    assert_eq!(d.offset as usize, got.len());
                    got.extend_from_slice(&pdu.data);
                    if let Some(status) = d.status {
                        self.count(d.numbers.stat);
                        return Outcome { status, sense: Vec::new(), data: got, residual: d.residual };
                    }
                }
                opcode::R2T => {
                    let r = ReadyToTransfer::decode(&pdu.bhs);
                    let piece = &data[r.offset as usize..(r.offset + r.length) as usize];
                    let n = piece.len().div_ceil(65536);
                    for (i, segment) in piece.chunks(65536).enumerate() {
                        let header = DataOut {
                            last: i + 1 == n,
                            lun: 0,
                            itt,
                            ttt: r.ttt,
                            exp_stat_sn: self.exp_stat_sn,
                            data_sn: i as u32,
                            offset: r.offset + (i * 65536) as u32,
                        };
                        self.send(header.encode(), segment).await;
                    }
                }
                opcode::SCSI_RESPONSE => {
                    let r = ScsiResponse::decode(&pdu.bhs);
                    self.count(r.numbers.stat);
                    let sense = pdu.data.get(2..).unwrap_or_default().to_vec();
                    return Outcome { status: r.status, sense, data: got, residual: r.residual };
                }
                other => panic!("unexpected PDU {other:02x}"),
            }
        }
    }

    /// StatSN has to count without gaps.
    pub fn count(&mut self, stat_sn: u32) {
        assert_eq!(stat_sn, self.exp_stat_sn);
        self.exp_stat_sn = stat_sn.wrapping_add(1);
    }

    pub async fn write(&mut self, lba: u64, data: &[u8]) {
        let done = self.command(rw16(0x8a, lba, (data.len() / 512) as u32), data, 0).await;
        assert_eq!((done.status, done.residual), (0, 0), "{done:?}");
    }

    pub async fn read(&mut self, lba: u64, len: usize) -> Vec<u8> {
        let done = self.command(rw16(0x88, lba, (len / 512) as u32), &[], len as u32).await;
        assert_eq!((done.status, done.residual), (0, 0));
        done.data
    }

    pub async fn task_management(&mut self, function: TaskFunction, referenced: u32) {
        let itt = self.new_itt();
        let request = TaskRequest {
            immediate: true,
            function,
            lun: 0,
            itt,
            referenced,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn: 0,
        };
        self.send(request.encode(), &[]).await;
    }

    pub async fn task_response(&mut self) -> u8 {
        let pdu = self.recv().await.expect("a task management response");
        assert_eq!(opcode_of(&pdu.bhs), opcode::TASK_RESPONSE);
        let response = TaskResponse::decode(&pdu.bhs);
        self.count(response.numbers.stat);
        response.response
    }

    pub async fn logout(mut self) {
        let request = LogoutRequest {
            immediate: true,
            reason: 0,
            itt: 0x999,
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.send(request.encode(), &[]).await;
        let rest = self.rest().await;
        assert_eq!(rest.iter().map(|p| opcode_of(&p.bhs)).collect::<Vec<_>>(), [opcode::LOGOUT_RESPONSE]);
    }

    /// SendTargets in a discovery session.
    pub async fn targets(&mut self, which: &str) -> Vec<(String, String)> {
        let (mut all, mut ttt) = (Vec::new(), RESERVED_TAG);
        let mut question = format!("SendTargets={which}\0");
        loop {
            let itt = 0x555;
            let request = TextRequest {
                immediate: true,
                last: true,
                more: false,
                lun: 0,
                itt,
                ttt,
                cmd_sn: self.cmd_sn,
                exp_stat_sn: self.exp_stat_sn,
            };
            self.send(request.encode(), std::mem::take(&mut question).as_bytes()).await;
            let pdu = self.recv().await.expect("a text response");
            let response = TextResponse::decode(&pdu.bhs);
            self.count(response.numbers.stat);
            all.extend_from_slice(&pdu.data);
            if response.last {
                break;
            }
            ttt = response.ttt;
        }
        let text = String::from_utf8(all).unwrap();
        let lines: Vec<&str> = text.split('\0').filter(|l| !l.is_empty()).collect();
        let value = |line: &str| line.split_once('=').unwrap().1.to_owned();
        lines.chunks(2).map(|pair| (value(pair[0]), value(pair[1]))).collect()
    }
}
