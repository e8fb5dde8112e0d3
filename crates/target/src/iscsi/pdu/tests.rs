use super::*;
use proptest::prelude::*;

fn bhs() -> impl Strategy<Value = Bhs> {
    prop::collection::vec(any::<u8>(), BHS_LEN).prop_map(|v| {
        let mut b = [0; BHS_LEN];
        b.copy_from_slice(&v);
        b
    })
}

// decode(encode(decode(x))) == decode(x): a struct keeps exactly what the wire format holds.
macro_rules! round_trips {
    ($($t:ident),*) => {
        proptest! {
            #[test]
            fn every_header_round_trips(b in bhs()) {
                $( let first = $t::decode(&b); prop_assert_eq!($t::decode(&first.encode()), first); )*
            }
        }
    };
}

round_trips!(
    LoginRequest,
    LoginResponse,
    ScsiRequest,
    ScsiResponse,
    DataOut,
    DataIn,
    ReadyToTransfer,
    NopOut,
    NopIn,
    TextRequest,
    TextResponse,
    TaskRequest,
    TaskResponse,
    LogoutRequest,
    LogoutResponse,
    Reject,
    AsyncMessage
);

#[test]
fn data_segment_length_and_padding() {
    let pdu = OutPdu::new(blank(opcode::NOP_IN), Bytes::from(vec![0; 70_001]));
    assert_eq!(data_len(&pdu.bhs), 70_001);
    assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
}

#[test]
fn scsi_command_bytes_stand_where_the_rfc_puts_them() {
    let request = ScsiRequest {
        immediate: true,
        last: true,
        read: true,
        write: false,
        attribute: 1,
        lun: 0x0001_0000_0000_0000,
        itt: 7,
        expected: 512,
        cmd_sn: 9,
        exp_stat_sn: 11,
        cdb: *b"0123456789abcdef",
    };
    let b = request.encode();
    assert_eq!(b[..2], [0x41, 0xc1]);
    assert_eq!(b[8..16], [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(b[16..32], [0, 0, 0, 7, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 11]);
    assert_eq!(b[32..], *b"0123456789abcdef");
    assert!(is_immediate(&b));
    assert_eq!(opcode_of(&b), opcode::SCSI_COMMAND);
}
