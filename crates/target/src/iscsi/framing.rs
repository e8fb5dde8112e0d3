//! From a byte stream to PDUs and back, without I/O.
//!
//! ```text
//! BHS 48 | AHS 4*n | header digest 4? | data segment | padding 0..3 | data digest 4?
//! ```
//! Reading: the shell reads into [`Deframer::space`] and then takes PDUs from [`Deframer::next_pdu`] until it is dry.
//! Small PDUs come many to one read; their data segments are slices of the read buffer. A data segment that does
//! not fit into what is left of the buffer gets a buffer of its own, and the rest is read straight into it.
//! Memory: one read buffer and at most one PDU of MaxRecvDataSegmentLength.

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

use super::digest::{Digests, crc32c, crc32c_padded};
use super::pdu::{BHS_LEN, Bhs, OutPdu, Pdu, ahs_len, data_len, padding};

/// Size of the read buffer: 62 writes of 4 KiB in one system call, or the better part of a big data segment.
const READ_BUFFER: usize = 256 * 1024;
/// Below this much room a new read buffer is taken instead of many tiny reads.
const MIN_ROOM: usize = 8 * 1024;
/// Longest AHS list taken: a header can claim 1020 bytes, an extended CDB needs at most 260.
const MAX_AHS: usize = 512;

/// Why a byte stream cannot be read further. The connection has to be closed: the framing is lost
/// (RFC 7143 section 7.7: at error recovery level 0 a header digest error ends the session).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The header digest does not match.
    #[error("header digest mismatch; the connection is closed so that the initiator starts over")]
    HeaderDigest,
    /// A data segment longer than we declared.
    #[error("data segment of {got} bytes, the limit declared in login is {limit}; the connection is closed")]
    TooLong {
        /// What the header says.
        got: usize,
        /// MaxRecvDataSegmentLength.
        limit: usize,
    },
    /// More additional header segments than any known PDU has.
    #[error("additional header segments of {0} bytes, at most 512 are understood; the connection is closed")]
    AhsTooLong(usize),
}

struct Partial {
    bhs: Bhs,
    ahs: Bytes,
    body: BytesMut,
    want: usize,
}

/// Cuts a byte stream into PDUs.
pub struct Deframer {
    buf: BytesMut,
    partial: Option<Partial>,
    digests: Digests,
    max_data: usize,
    /// The PDU that has begun fits into what is left of the buffer.
    fits: bool,
}

impl Deframer {
    /// A deframer that takes data segments of up to `max_data` bytes and no digests, as login needs it.
    pub fn new(max_data: usize) -> Self {
        Self { buf: BytesMut::new(), partial: None, digests: Digests::default(), max_data, fits: false }
    }

    /// Switches to what login agreed on; the next PDU is the first of the full feature phase.
    pub fn set_full_feature(&mut self, digests: Digests, max_data: usize) {
        self.digests = digests;
        self.max_data = max_data;
    }

    /// Room for the next read; never zero.
    pub fn space(&mut self) -> Limit<&mut BytesMut> {
        if let Some(p) = &mut self.partial {
            let room = p.want - p.body.len();
            return (&mut p.body).limit(room);
        }
        if !self.fits && self.buf.capacity() - self.buf.len() < MIN_ROOM {
            self.buf.reserve(READ_BUFFER);
        }
        let room = self.buf.capacity() - self.buf.len();
        (&mut self.buf).limit(room)
    }

    /// The next whole PDU, `None` when more bytes are needed.
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, FrameError> {
        if let Some(p) = self.partial.take_if(|p| p.body.len() == p.want) {
            return Ok(Some(self.finish(p.bhs, p.ahs, p.body)));
        }
        self.fits = false;
        if self.partial.is_some() || self.buf.len() < BHS_LEN {
            return Ok(None);
        }
        let mut bhs = [0; BHS_LEN];
        bhs.copy_from_slice(&self.buf[..BHS_LEN]);
        let (ahs, data) = (ahs_len(&bhs), data_len(&bhs));
        let head = BHS_LEN + ahs + if self.digests.header { 4 } else { 0 };
        if ahs > MAX_AHS {
            return Err(FrameError::AhsTooLong(ahs));
        }
        if self.buf.len() < head {
            return Ok(None);
        }
        // Section 7.7: the digest is checked before any field of the header is believed.
        if self.digests.header && crc32c(&self.buf[..BHS_LEN + ahs]) != self.buf[BHS_LEN + ahs..head] {
            return Err(FrameError::HeaderDigest);
        }
        if data > self.max_data {
            return Err(FrameError::TooLong { got: data, limit: self.max_data });
        }
        let digest = if self.digests.data && data > 0 { 4 } else { 0 };
        let want = data + padding(data) + digest;
        if self.buf.len() >= head + want {
            let mut front = self.buf.split_to(head + want);
            let ahs = if ahs == 0 { Bytes::new() } else { Bytes::copy_from_slice(&front[BHS_LEN..BHS_LEN + ahs]) };
            let body = front.split_off(head);
            return Ok(Some(self.finish(bhs, ahs, body)));
        }
        if self.buf.capacity() >= head + want {
            self.fits = true;
            return Ok(None);
        }
        let ahs = Bytes::copy_from_slice(&self.buf[BHS_LEN..BHS_LEN + ahs]);
        let mut body = BytesMut::with_capacity(want);
        body.extend_from_slice(&self.buf[head..]);
        self.buf.clear();
        self.partial = Some(Partial { bhs, ahs, body, want });
        Ok(None)
    }

    fn finish(&self, bhs: Bhs, ahs: Bytes, mut body: BytesMut) -> Pdu {
        let len = data_len(&bhs);
        let mut data_ok = true;
        if self.digests.data && len > 0 {
            let covered = len + padding(len);
            data_ok = crc32c(&body[..covered]) == body[covered..covered + 4];
        }
        body.truncate(len);
        Pdu { bhs, ahs, data: body.freeze(), data_ok }
    }
}

/// A PDU as it goes to the socket: three pieces, the middle one shared.
#[derive(Debug)]
pub struct WirePdu {
    head: [u8; BHS_LEN + 4],
    head_len: u8,
    tail_len: u8,
    tail: [u8; 8],
    data: Bytes,
}

impl WirePdu {
    /// Adds digests and padding.
    pub fn new(pdu: OutPdu, digests: Digests) -> Self {
        let mut head = [0; BHS_LEN + 4];
        head[..BHS_LEN].copy_from_slice(&pdu.bhs);
        let mut head_len = BHS_LEN;
        if digests.header {
            head[BHS_LEN..].copy_from_slice(&crc32c(&pdu.bhs));
            head_len += 4;
        }
        let pad = padding(pdu.data.len());
        let mut tail = [0; 8];
        let mut tail_len = pad;
        if digests.data && !pdu.data.is_empty() {
            tail[pad..pad + 4].copy_from_slice(&crc32c_padded(&pdu.data, pad));
            tail_len += 4;
        }
        Self { head, head_len: head_len as u8, tail_len: tail_len as u8, tail, data: pdu.data }
    }

    /// Header (with its digest), data, padding with data digest; in wire order.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [&self.head[..usize::from(self.head_len)], &self.data, &self.tail[..usize::from(self.tail_len)]]
    }

    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        usize::from(self.head_len) + self.data.len() + usize::from(self.tail_len)
    }

    /// Never true: a PDU has a header.
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::pdu::opcode;
    use proptest::prelude::*;

    fn wire(pdus: &[(u8, Vec<u8>)], digests: Digests) -> Vec<u8> {
        let mut out = Vec::new();
        for (op, data) in pdus {
            let mut bhs = [0; BHS_LEN];
            bhs[0] = op & 0x3f;
            let pdu = WirePdu::new(OutPdu::new(bhs, Bytes::from(data.clone())), digests);
            assert_eq!(pdu.len(), pdu.pieces().concat().len());
            out.extend(pdu.pieces().concat());
        }
        out
    }

    fn feed(d: &mut Deframer, mut bytes: &[u8], step: usize) -> Result<Vec<Pdu>, FrameError> {
        let mut got = Vec::new();
        while !bytes.is_empty() {
            let mut space = d.space();
            let n = bytes.len().min(step).min(space.remaining_mut());
            space.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
            while let Some(pdu) = d.next_pdu()? {
                got.push(pdu);
            }
        }
        Ok(got)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_pdus(
            pdus in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..9000)), 1..60),
            step in 1usize..70_000, header: bool, data: bool,
        ) {
            let digests = Digests { header, data };
            let mut d = Deframer::new(65536);
            d.set_full_feature(digests, 65536);
            let got = feed(&mut d, &wire(&pdus, digests), step).unwrap();
            prop_assert_eq!(got.len(), pdus.len());
            for (g, (op, data)) in got.iter().zip(&pdus) {
                prop_assert_eq!(g.bhs[0], op & 0x3f);
                prop_assert_eq!(&g.data[..], &data[..]);
                prop_assert!(g.data_ok);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000), step in 1usize..600, header: bool) {
            let mut d = Deframer::new(4096);
            d.set_full_feature(Digests { header, data: true }, 4096);
            let _ = feed(&mut d, &bytes, step);
        }
    }

    #[test]
    fn big_segments_get_their_own_buffer() {
        let pdus = vec![(1, vec![7; 250_000]), (1, vec![8; 250_000]), (1, vec![9; 100])];
        let mut d = Deframer::new(262_144);
        let got = feed(&mut d, &wire(&pdus, Digests::default()), 100_000).unwrap();
        assert_eq!(got.iter().map(|p| p.data.len()).collect::<Vec<_>>(), [250_000, 250_000, 100]);
        assert!(got[1].data.iter().all(|b| *b == 8));
    }

    #[test]
    fn additional_header_segments_are_kept_and_covered_by_the_header_digest() {
        let mut bytes = vec![0; BHS_LEN];
        (bytes[4], bytes[7]) = (2, 3);
        bytes.extend(*b"8 bytes!");
        bytes.extend(crc32c(&bytes));
        bytes.extend(*b"abc\0");
        for wrong in [false, true] {
            let mut d = Deframer::new(100);
            d.set_full_feature(Digests { header: true, data: false }, 100);
            bytes[50] ^= u8::from(wrong);
            let got = feed(&mut d, &bytes, 7);
            if wrong {
                assert_eq!(got, Err(FrameError::HeaderDigest));
            } else {
                let pdus = got.unwrap();
                assert_eq!((&pdus[0].ahs[..], &pdus[0].data[..]), (&b"8 bytes!"[..], &b"abc"[..]));
            }
        }
    }

    #[test]
    fn digest_errors_are_told_apart() {
        let digests = Digests { header: true, data: true };
        let mut bytes = wire(&[(opcode::NOP_OUT, vec![1, 2, 3])], digests);
        let last = bytes.len() - 5; // in the padding
        bytes[last] ^= 1;
        let mut d = Deframer::new(100);
        d.set_full_feature(digests, 100);
        assert!(!feed(&mut d, &bytes, 10).unwrap()[0].data_ok);
        bytes[20] ^= 1;
        let mut d = Deframer::new(100);
        d.set_full_feature(digests, 100);
        assert_eq!(feed(&mut d, &bytes, 10), Err(FrameError::HeaderDigest));
    }

    #[test]
    fn limits_hold() {
        let mut d = Deframer::new(100);
        let bytes = wire(&[(0, vec![0; 101])], Digests::default());
        assert_eq!(feed(&mut d, &bytes, 48), Err(FrameError::TooLong { got: 101, limit: 100 }));
        let mut bhs = [0; BHS_LEN];
        bhs[4] = 255;
        assert_eq!(feed(&mut Deframer::new(100), &bhs, 48), Err(FrameError::AhsTooLong(1020)));
    }
}
