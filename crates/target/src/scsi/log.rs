//! LOG SENSE (SPC-4 section 6.8): what there is to tell that is true. A unit that lives on several pools has no counters of a
//! medium of its own; those are the pools' (metrics, `ballast status`).

use super::sense::Sense;

/// Supported log pages.
const SUPPORTED: u8 = 0x00;
/// Informational exceptions (section 7.3.8): none are pending; they are disabled by mode page 1Ch.
const EXCEPTIONS: u8 = 0x2f;
const ALL_SUBPAGES: u8 = 0xff;

const PAGES: [u8; 2] = [SUPPORTED, EXCEPTIONS];

/// A page from a parameter on. Every page control gets the same: nothing here has thresholds or defaults of its own.
pub(super) fn sense(page: u8, subpage: u8, from: u16) -> Result<Vec<u8>, Sense> {
    let body = match (page, subpage) {
        (SUPPORTED, 0) => PAGES.to_vec(),
        (SUPPORTED, ALL_SUBPAGES) => {
            PAGES.iter().flat_map(|page| [*page, 0]).chain([SUPPORTED, ALL_SUBPAGES]).collect()
        }
        // Parameter 0000h, binary list: ASC, ASCQ, most recent temperature (FFh: not known).
        (EXCEPTIONS, 0) if from == 0 => vec![0, 0, 0x03, 4, 0, 0, 0xff, 0],
        (EXCEPTIONS, 0) => return Err(Sense::field(5)),
        (SUPPORTED | EXCEPTIONS, _) => return Err(Sense::field(3)),
        _ => return Err(Sense::bit(2, 5)),
    };
    let spf = u8::from(subpage != 0) << 6;
    let mut out = vec![page | spf, subpage];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    Ok(out)
}
