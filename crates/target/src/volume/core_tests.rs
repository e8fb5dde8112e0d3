//! The client's decisions, event by event.

use std::time::{Duration, Instant};

use ballast_api::replica::failure::Code;
use ballast_api::replica::volume_request::Op as WireOp;
use ballast_api::replica::volume_response::Result as WireResult;
use ballast_api::replica::{Done, Failure, Opened, VolumeRequest, VolumeResponse};
use ballast_api::{PoolId, TargetId, VolumeId};
use bytes::Bytes;

use super::core::{Action, Core, OPEN_TIMEOUT, Op, STALL};
use crate::block_device::DeviceError;

type Actions = Vec<Action<u32>>;

struct Bench {
    core: Core<u32>,
    pools: Vec<PoolId>,
    now: Instant,
}

fn bench() -> Bench {
    let pools: Vec<_> = (0..3).map(|_| PoolId::random()).collect();
    let core = Core::new(VolumeId::random(), TargetId::random(), pools.clone(), Duration::from_secs(100));
    Bench { core, pools, now: Instant::now() }
}

fn sent(actions: &Actions) -> Vec<&VolumeRequest> {
    actions.iter().filter_map(|a| if let Action::Send(request) = a { Some(request) } else { None }).collect()
}

fn connects(actions: &Actions) -> Vec<PoolId> {
    actions.iter().filter_map(|a| if let Action::Connect { pool, .. } = a { Some(*pool) } else { None }).collect()
}

fn open_request(action: Action<u32>) -> (u64, bool) {
    match action {
        Action::Send(VolumeRequest { id, op: Some(WireOp::Open(open)) }) => (id, open.take_over),
        other => panic!("not an open: {other:?}"),
    }
}

fn failure(id: u64, code: Code, leader: Option<PoolId>) -> VolumeResponse {
    let leader_pool = leader.map(|pool| pool.to_bytes()).unwrap_or_default();
    let failure = Failure { code: code.into(), leader_pool, ..Failure::default() };
    VolumeResponse { id, result: Some(WireResult::Failure(failure)) }
}

/// "The leader is `leader`, listening at `endpoint`."
fn not_leader(id: u64, leader: PoolId, endpoint: &str) -> VolumeResponse {
    let failure = Failure {
        code: Code::NotLeader.into(),
        leader_pool: leader.to_bytes(),
        leader_endpoint: endpoint.to_owned(),
        ..Failure::default()
    };
    VolumeResponse { id, result: Some(WireResult::Failure(failure)) }
}

fn write(lba: u64) -> Op {
    Op::Write { lba, crcs: vec![0], payload: vec![0; 4096].into() }
}

/// What the group says that earlier targets kept.
const KEPT: Bytes = Bytes::from_static(b"reservations");

impl Bench {
    fn online(&mut self, epoch: u64) -> Actions {
        let (id, _) = open_request(self.core.connected());
        let opened = WireResult::Opened(Opened { epoch, blocks: 10, state: KEPT });
        self.core.response(self.now, VolumeResponse { id, result: Some(opened) })
    }

    fn submit(&mut self, op: Op, ticket: u32) -> Actions {
        self.core.submit(self.now, op, ticket).into_iter().collect()
    }
}

fn epoch_of(request: &VolumeRequest) -> u64 {
    match request.op.as_ref() {
        Some(WireOp::Write(write)) => write.epoch,
        Some(WireOp::Read(read)) => read.epoch,
        Some(WireOp::Unmap(unmap)) => unmap.epoch,
        Some(WireOp::SaveState(save)) => save.epoch,
        other => panic!("no epoch in {other:?}"),
    }
}

#[test]
fn operations_wait_for_the_leader_and_are_sent_in_order() {
    let mut b = bench();
    let start = b.core.start(b.now);
    assert_eq!(connects(&start), [b.pools[0]]);
    assert!(b.submit(write(1), 1).is_empty());
    assert!(b.submit(write(2), 2).is_empty());
    b.now += Duration::from_secs(1);
    let actions = b.online(7);
    let requests = sent(&actions);
    assert_eq!(requests.iter().map(|r| epoch_of(r)).collect::<Vec<_>>(), [7, 7]);
    assert!(requests[0].id < requests[1].id);
    let id = requests[0].id;
    let opened = b.now;
    b.now += Duration::from_secs(1);
    let done = b.core.response(b.now, VolumeResponse { id, result: Some(WireResult::Done(Done {})) });
    assert!(
        matches!(done[..], [Action::Complete(1, Ok(_), Some(sent))] if sent == opened),
        "not when it was submitted"
    );
    // The same answer again finds nobody.
    assert!(b.core.response(b.now, VolumeResponse { id, result: Some(WireResult::Done(Done {})) }).is_empty());
}

#[test]
fn a_lost_stream_is_a_pause_and_a_new_epoch_not_an_error() {
    let mut b = bench();
    b.core.start(b.now);
    assert!(open_request(b.core.connected()).1, "the first open takes over");
    b.online(1);
    b.submit(write(5), 1);
    let actions = b.core.lost(b.now);
    assert_eq!(connects(&actions), [b.pools[1]]);
    let (_, take_over) = open_request(b.core.connected());
    assert!(!take_over, "a reconnect must not take the volume back from a newer target");
    let actions = b.online(2);
    assert_eq!(sent(&actions).iter().map(|r| epoch_of(r)).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_hint_names_the_next_candidate() {
    let mut b = bench();
    b.core.start(b.now);
    let (id, _) = open_request(b.core.connected());
    let actions = b.core.response(b.now, failure(id, Code::NotLeader, Some(b.pools[2])));
    assert_eq!(connects(&actions), [b.pools[2]]);
    // A hint at the replica that just refused would go round in circles.
    let (id, _) = open_request(b.core.connected());
    let actions = b.core.response(b.now, failure(id, Code::NotLeader, Some(b.pools[2])));
    assert_eq!(connects(&actions), [b.pools[1]]);
}

/// The steps of a client whose replicas answer as `answer` says, until it has tried the pool `goal`.
fn steps_until(b: &mut Bench, goal: PoolId, answer: impl Fn(PoolId) -> Option<(PoolId, &'static str)>) -> usize {
    let mut actions = b.core.start(b.now);
    for step in 0..100 {
        let [Action::Connect { pool, pause, .. }] = actions[..] else { panic!("not one step: {actions:?}") };
        assert!(step == 0 || !pause.is_zero(), "it must not spin");
        if pool == goal {
            return step;
        }
        let (id, _) = open_request(b.core.connected());
        actions = match answer(pool) {
            Some((leader, endpoint)) => b.core.response(b.now, not_leader(id, leader, endpoint)),
            None => b.core.lost(b.now),
        };
    }
    panic!("the replica was never tried");
}

#[test]
fn replicas_that_name_leaders_of_long_ago_cannot_keep_the_client_from_the_others() {
    // Two that name each other.
    let mut b = bench();
    let [x, y, z] = b.pools[..] else { panic!() };
    let steps = steps_until(&mut b, z, |pool| Some((if pool == x { y } else { x }, "")));
    assert!(steps < 10, "{steps}");
    // Three in a circle, and one that is dead; the list is in the worst order.
    let w = PoolId::random();
    for pools in [vec![x, y, z, w], vec![y, z, x, w], vec![z, y, x, w]] {
        b.core = Core::new(VolumeId::random(), TargetId::random(), pools, Duration::from_secs(100));
        let steps = steps_until(&mut b, w, |pool| {
            Some((
                if pool == x {
                    y
                } else if pool == y {
                    z
                } else {
                    x
                },
                "",
            ))
        });
        assert!(steps < 20, "{steps}");
    }
}

#[test]
fn what_targets_kept_is_told_once_and_what_is_saved_is_repeated_like_a_write() {
    let mut b = bench();
    b.core.start(b.now);
    assert!(
        matches!(&b.online(1)[..], [Action::Capacity(ballast_api::BlockCount(10)), Action::Kept(kept)] if *kept == KEPT)
    );
    b.submit(Op::SaveState(Bytes::from_static(b"new")), 1);
    b.core.lost(b.now);
    // What the group says now may be from before the save.
    let again = b.online(2);
    let requests = sent(&again);
    assert_eq!((again.len(), requests.len(), epoch_of(requests[0])), (2, 1, 2));
    let id = requests[0].id;
    let done = b.core.response(b.now, VolumeResponse { id, result: Some(WireResult::Done(Done {})) });
    assert!(matches!(done[..], [Action::Complete(1, Ok(_), Some(_))]));
}

#[test]
fn a_leader_that_is_not_listed_is_found_where_a_replica_says() {
    let mut b = bench();
    let stranger = PoolId::random();
    let (first, last) = (b.pools[0], b.pools[2]);
    // Only the last of the list answers.
    steps_until(&mut b, stranger, |pool| (pool == last).then_some((stranger, "10.0.0.9:7000")));
    assert!(sent(&b.online(3)).is_empty());
    assert_eq!(b.core.leader(), Some(stranger));
    // A new list changes nothing for a stream that stands.
    b.core.set_replicas(vec![first]);
    assert_eq!(b.core.leader(), Some(stranger));
    assert_eq!(connects(&b.core.lost(b.now)), [first], "and then the list has its turn");
}

#[test]
fn a_leader_that_cannot_be_reached_is_not_waited_for() {
    let mut b = bench();
    let (stranger, last) = (PoolId::random(), b.pools[2]);
    // Nobody says where it is: the list goes round.
    let steps = steps_until(&mut b, last, |_| Some((stranger, "")));
    assert_eq!(steps, 2);
    let mut b = bench();
    // It does not answer where it is said to be: it is tried in between.
    let last = b.pools[2];
    let steps = steps_until(&mut b, last, |pool| (pool != stranger).then_some((stranger, "10.0.0.9:7000")));
    assert_eq!(steps, 4);
}

#[test]
fn fenced_is_final() {
    let mut b = bench();
    b.core.start(b.now);
    b.online(1);
    let actions = b.submit(write(5), 1);
    let id = sent(&actions)[0].id;
    let actions = b.core.response(b.now, failure(id, Code::Fenced, None));
    assert!(matches!(actions[..], [Action::Complete(1, Err(DeviceError::Fenced), None)]));
    assert!(matches!(b.submit(write(6), 2)[..], [Action::Complete(2, Err(DeviceError::Fenced), None)]));
    assert!(b.core.lost(b.now).is_empty());
    assert!(b.core.tick(b.now + OPEN_TIMEOUT * 2).is_empty());
}

#[test]
fn a_silent_leader_is_left_and_patience_grows() {
    let mut b = bench();
    b.core.start(b.now);
    b.online(1);
    b.submit(write(5), 1);
    assert!(b.core.tick(b.now + STALL / 2).is_empty());
    b.now += STALL + Duration::from_millis(1);
    assert_eq!(connects(&b.core.tick(b.now)).len(), 1);
    b.online(2);
    b.now += STALL + Duration::from_millis(1);
    assert!(b.core.tick(b.now).is_empty(), "twice the time at the second leader");
    b.now += STALL;
    assert_eq!(connects(&b.core.tick(b.now)).len(), 1);
}

#[test]
fn what_nobody_can_do_in_time_fails_retryably() {
    let mut b = bench();
    b.core.start(b.now);
    b.submit(write(5), 1);
    b.now += Duration::from_secs(101);
    let actions = b.core.tick(b.now);
    assert!(matches!(actions[0], Action::Complete(1, Err(DeviceError::Unavailable(_)), None)));
}

#[test]
fn errors_of_the_volume_reach_the_initiator() {
    let cases = [
        (Code::NoSpace, DeviceError::NoSpace),
        (Code::OutOfRange, DeviceError::OutOfRange),
        (Code::Corrupt, DeviceError::Corrupt { lba512: 40 }),
    ];
    for (code, expected) in cases {
        let mut b = bench();
        b.core.start(b.now);
        b.online(1);
        let id = sent(&b.submit(write(5), 1))[0].id;
        match &b.core.response(b.now, failure(id, code, None))[..] {
            [Action::Complete(1, Err(error), Some(_))] => assert_eq!(*error, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_block_damaged_on_the_way_is_sent_again_a_few_times() {
    let mut b = bench();
    b.core.start(b.now);
    b.online(1);
    let id = sent(&b.submit(write(5), 1))[0].id;
    for _ in 0..3 {
        let actions = b.core.response(b.now, failure(id, Code::BadChecksum, None));
        assert_eq!(sent(&actions)[0].id, id);
    }
    let actions = b.core.response(b.now, failure(id, Code::BadChecksum, None));
    assert!(matches!(actions[..], [Action::Complete(1, Err(DeviceError::Internal(_)), Some(_))]));
}
