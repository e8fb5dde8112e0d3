//! Byte streams through the deframer: whole, cut anywhere, with lies about lengths and with damaged digests.

use ballast_target::iscsi::digest::{Digests, crc32c, crc32c_padded};
use ballast_target::iscsi::framing::{Deframer, FrameError};
use ballast_target::iscsi::pdu::{BHS_LEN, Pdu, data_len, padding};
use bytes::{BufMut, Bytes};

use crate::random::{Rng, Tally};

/// MaxRecvDataSegmentLength of the full feature phase.
pub const LIMIT: usize = 256 * 1024;

/// A PDU as an initiator sends it: its lengths are those of its parts.
pub fn wire(pdu: &Pdu, digests: Digests) -> Vec<u8> {
    let mut out = pdu.bhs.to_vec();
    out[4] = (pdu.ahs.len() / 4) as u8;
    out[5..8].copy_from_slice(&(pdu.data.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&pdu.ahs);
    if digests.header {
        out.extend(crc32c(&out));
    }
    let pad = padding(pdu.data.len());
    out.extend_from_slice(&pdu.data);
    out.extend(std::iter::repeat_n(0, pad));
    if digests.data && !pdu.data.is_empty() {
        let good = crc32c_padded(&pdu.data, pad);
        out.extend(if pdu.data_ok { good } else { good.map(|b| !b) });
    }
    out
}

pub fn digests(rng: &mut Rng) -> Digests {
    Digests { header: rng.percent(50), data: rng.percent(50) }
}

/// Feeds bytes in pieces of any size and takes what comes out.
pub fn deframe(
    rng: &mut Rng,
    deframer: &mut Deframer,
    mut bytes: &[u8],
    mut take: impl FnMut(Pdu),
) -> Result<(), FrameError> {
    let step = *rng.pick(&[1, 7, 48, 1000, 5000, 70_000, 1 << 20]);
    while !bytes.is_empty() {
        let mut space = deframer.space();
        assert!(space.remaining_mut() > 0, "no room to read into");
        // A small step only for the beginning: what is interesting is where PDUs are cut.
        let step = if bytes.len() > 20_000 { step.max(5000) } else { step };
        let n = bytes.len().min(step).min(space.remaining_mut());
        space.put_slice(&bytes[..n]);
        bytes = &bytes[n..];
        while let Some(pdu) = deframer.next_pdu()? {
            take(pdu);
        }
    }
    Ok(())
}

fn any_pdu(rng: &mut Rng) -> Pdu {
    let mut bhs = [0; BHS_LEN];
    bhs.copy_from_slice(&rng.bytes(BHS_LEN));
    let ahs = if rng.percent(20) { 4 * rng.index(129) } else { 0 };
    let data = match rng.below(10) {
        0..4 => 0,
        4..8 => rng.index(600),
        8 => rng.index(9000),
        _ => {
            let most = if rng.percent(5) { LIMIT } else { 40_000 };
            rng.index(most)
        }
    };
    let data = Bytes::from(vec![rng.byte(); data]);
    Pdu { bhs, ahs: Bytes::from(rng.bytes(ahs)), data, data_ok: rng.percent(98) }
}

pub fn run(rng: &mut Rng, tally: &mut Tally) {
    let digests = digests(rng);
    let limit = *rng.pick(&[512, 8192, LIMIT, LIMIT]);
    let mut deframer = Deframer::new(limit);
    deframer.set_full_feature(digests, limit);
    let sent: Vec<Pdu> = (0..=rng.below(12)).map(|_| any_pdu(rng)).collect();
    let mut bytes: Vec<u8> = sent.iter().flat_map(|p| wire(p, digests)).collect();
    let damaged = rng.percent(60);
    if damaged {
        match rng.below(4) {
            // Lies about lengths: of the first header, or wherever it hits.
            0 => bytes[4] = rng.byte(),
            1 => {
                let lie = rng.edge().to_be_bytes();
                bytes[5..8].copy_from_slice(&lie[1..]);
            }
            2 => rng.damage(&mut bytes),
            _ => bytes.truncate(rng.index(bytes.len())),
        }
    }
    let mut got = Vec::new();
    let end = deframe(rng, &mut deframer, &bytes, |pdu| got.push(pdu));
    let used: usize = got.iter().map(|p| BHS_LEN + p.ahs.len() + p.data.len()).sum();
    assert!(used <= bytes.len(), "{used} bytes out of {}", bytes.len());
    assert!(got.iter().all(|p| p.data.len() <= limit && p.ahs.len() <= 512 && p.data.len() == data_len(&p.bhs)));
    if got.iter().any(|p| !p.data_ok) {
        tally.count("framing: bad data digest");
    }
    match end {
        Err(FrameError::HeaderDigest) => tally.count("framing: bad header digest"),
        Err(FrameError::TooLong { .. }) => tally.count("framing: too long"),
        Err(FrameError::AhsTooLong(_)) => tally.count("framing: additional headers too long"),
        Ok(()) => tally.count("framing: whole PDUs"),
    }
    if !damaged {
        let fit = sent.iter().take_while(|p| p.data.len() <= limit).count();
        assert_eq!(got.len(), fit);
        for (got, sent) in got.iter().zip(&sent) {
            assert!(got.data == sent.data && got.ahs == sent.ahs && got.bhs[8..] == sent.bhs[8..]);
            assert_eq!(got.data_ok, sent.data_ok || !digests.data || sent.data.is_empty());
        }
    }
}
