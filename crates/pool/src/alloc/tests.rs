use super::*;

fn allocator(sizes: &[u64]) -> Allocator {
    let mut alloc = Allocator::default();
    for size in sizes {
        alloc.add_device(1000, *size, *size);
    }
    alloc
}

#[test]
fn next_fit_is_sequential_and_complete() {
    let mut alloc = allocator(&[300]);
    let mut expected = 1000;
    for _ in 0..100 {
        let extents = alloc.allocate(3, 0).unwrap();
        assert_eq!(extents.iter().map(|e| e.len).sum::<u32>(), 3);
        assert_eq!(extents[0].addr, expected);
        expected += 3;
    }
    assert_eq!(alloc.allocate(1, 0), None);
    assert_eq!(alloc.free(), 0);
}

#[test]
fn spills_to_other_devices_only_when_full() {
    let mut alloc = allocator(&[10, 10]);
    let extents = alloc.allocate(14, 1).unwrap();
    let on = |device| extents.iter().filter(|e| split_block(e.addr).0 == device).map(|e| e.len).sum::<u32>();
    assert_eq!((on(0), on(1)), (4, 10));
    assert_eq!(alloc.allocate(7, 0), None);
    assert_eq!(alloc.free(), 6, "a refused allocation takes nothing");
}

#[test]
fn unprepared_space_is_not_given_out() {
    let mut alloc = Allocator::default();
    alloc.add_device(8, 1000, 100);
    assert!(alloc.allocate(101, 0).is_none());
    assert!(alloc.allocate(100, 0).is_some());
    assert_eq!((alloc.free(), alloc.free_prepared()), (900, 0));
    assert_eq!(alloc.wants_preparation(10), Some(0));
    alloc.set_prepared(0, 1000);
    assert!(alloc.allocate(900, 0).is_some());
    assert_eq!(alloc.wants_preparation(10), None);
}

#[test]
fn images_hold_what_is_durable() {
    let mut alloc = allocator(&[200]);
    let addr = alloc.allocate(2, 0).unwrap()[0].addr;
    assert!(!alloc.is_dirty(), "a new block changes no image");
    alloc.clear_volatile(addr);
    let image = &alloc.take_dirty()[0].2;
    assert_eq!(image[0], 1);
    alloc.set_volatile(addr);
    assert_eq!(alloc.take_dirty()[0].2[0], 0);
    assert_eq!(alloc.used(), 2, "a volatile block is not free");
    alloc.release(addr);
    alloc.release(addr);
    assert_eq!(alloc.used(), 1);
    assert!(!alloc.is_dirty());
}

#[test]
fn claim_refuses_twice() {
    let mut alloc = allocator(&[64, 64]);
    assert!(alloc.claim(pool_block(1, 1003)));
    assert!(!alloc.claim(pool_block(1, 1003)));
    assert!(!alloc.claim(pool_block(2, 1003)));
    assert!(!alloc.claim(pool_block(0, 999)));
    assert!(!alloc.claim(pool_block(0, 1064)));
    assert_eq!(alloc.differences(&alloc.empty_copy()).collect::<Vec<_>>(), [(pool_block(1, 1003), true)]);
}

#[test]
fn regions_round_trip_and_notice_damage() {
    let image: Vec<u64> = (0..REGION_WORDS as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let bytes = encode_region(&image);
    assert_eq!(decode_region(&bytes), Some(image));
    for at in (0..bytes.len()).step_by(97) {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert_eq!(decode_region(&bad), None);
    }
}
