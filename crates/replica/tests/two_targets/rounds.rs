//! The rounds of one group: something is disturbed, another target takes the volume over while the old one goes on, and
//! everything is healed again, so that what was held back arrives.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::checker::check;
use crate::history::History;
use crate::net::{HOSTS, Net, POOLS, STRIKES, Strike};
use crate::random::Random;
use crate::support::Group;
use crate::target::Target;

/// A healed group serves its volume after a few seconds at most; when it does not after this, it never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for another leader, when the old one is not heard any more.
const ELECTION: Duration = Duration::from_millis(4000);
/// Old targets live on for so many rounds.
const LINGER: u64 = 2;
/// The history so far is looked at after so many rounds, and at the end.
const CHECK: u64 = 50;

/// What happened.
#[derive(Default)]
pub struct Figures {
    rounds: u64,
    take_overs: u64,
    leaders: u64,
    calls: u64,
    unanswered: u64,
    late: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.take_overs += other.take_overs;
        self.leaders += other.leaders;
        self.calls += other.calls;
        self.unanswered += other.unanswered;
        self.late += other.late;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, take_overs, leaders, calls, unanswered, late } = self;
        write!(
            f,
            "{rounds} rounds, {take_overs} take-overs, {leaders} changes of leader, {calls} calls answered, {unanswered} writes \
             not, {late} KiB of targets late"
        )
    }
}

/// One group, its network, and the targets that live.
pub struct Lane {
    group: Group,
    net: Net,
    random: Random,
    history: Arc<History>,
    /// With the round in which each was started.
    targets: Vec<(u64, Target)>,
    leader: Option<usize>,
    figures: Figures,
}

impl Lane {
    pub async fn new(seed: u64) -> Self {
        let mut group = Group::new(POOLS).await;
        let net = Net::around(&mut group).await;
        Self {
            group,
            net,
            random: Random::new(seed),
            history: Arc::default(),
            targets: Vec::new(),
            leader: None,
            figures: Figures::default(),
        }
    }

    /// All rounds, or those until something was wrong.
    pub async fn run(mut self, rounds: u64) -> (Figures, Vec<String>) {
        self.start(0, 0);
        let mut wrong = self.settle().await;
        for round in 1..=rounds {
            if wrong.is_empty() {
                wrong = self.round(round).await;
            }
            if wrong.is_empty() && round % CHECK == 0 {
                wrong = self.look();
            }
            if !wrong.is_empty() {
                wrong.insert(0, format!("round {round}"));
                break;
            }
            self.figures.rounds += 1;
        }
        for (_, target) in std::mem::take(&mut self.targets) {
            target.end().await;
        }
        wrong.extend(self.look());
        let (events, owners, _) = self.history.recorded();
        self.figures.take_overs = owners.iter().filter(|owner| owner.last > 0).count() as u64;
        self.figures.calls = events.iter().filter(|event| event.end.is_some()).count() as u64;
        self.figures.unanswered = events.len() as u64 - self.figures.calls;
        self.figures.late = self.net.late_bytes() >> 10;
        self.group.stop().await;
        (self.figures, wrong)
    }

    fn look(&self) -> Vec<String> {
        for (_, target) in &self.targets {
            self.history.note_epoch(target.number, target.epoch());
        }
        let (events, owners, mut wrong) = self.history.recorded();
        wrong.extend(check(&events, &owners));
        wrong.truncate(20);
        wrong
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit as u64) as usize
    }

    /// Up to so many milliseconds.
    async fn pause(&mut self, most: u64) {
        sleep(Duration::from_micros(self.random.below(most * 1000))).await;
    }

    fn start(&mut self, round: u64, host: usize) {
        let target = Target::start(&self.history, &self.net, self.group.volume, host, &mut self.random);
        self.targets.push((round, target));
    }

    /// The target with the newest epoch.
    fn owner(&self) -> Option<&Target> {
        let newest = self.targets.iter().map(|(_, target)| target).filter(|target| target.is_open());
        newest.max_by_key(|target| target.epoch())
    }

    async fn round(&mut self, round: u64) -> Vec<String> {
        let host = self.owner().map_or(0, |owner| owner.host);
        let leader = self.leader.unwrap_or(0);
        let isolated = self.strike(host, leader);
        self.pause(40).await;
        if self.below(4) == 0 {
            // What was held back arrives while the old one is the owner still, and has asked for the same again.
            self.net.heal_hosts();
            self.pause(20).await;
        }
        // Mostly the other host, sometimes a new process beside the old one; sometimes two want to have it at once.
        let next = if self.below(5) == 0 { host } else { 1 - host };
        self.start(round, next);
        if self.below(6) == 0 {
            self.pause(10).await;
            self.start(round, 1 - next);
        }
        let patience = if isolated { ELECTION } else { Duration::from_millis(50 + self.random.below(150)) };
        let new = self.targets.len() - 1;
        let open = async {
            while !self.targets[new].1.is_open() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        _ = timeout(patience, open).await;
        // Both live, and one of them may be cut off.
        self.pause(60).await;
        if self.below(2) == 0 {
            self.net.heal_hosts();
            self.pause(20).await;
            self.net.heal_pools();
        } else {
            self.net.heal_pools();
            self.pause(20).await;
            self.net.heal_hosts();
        }
        self.pause(30).await;
        tracing::info!(round, isolated, "healed");
        let wrong = self.settle().await;
        tracing::info!(round, ?wrong, "settled");
        self.retire(round).await;
        tracing::info!(round, "over");
        wrong
    }

    /// Disturbs something; whether the leader may be cut off from the other pools.
    fn strike(&mut self, host: usize, leader: usize) -> bool {
        let strike = STRIKES[self.below(STRIKES.len())];
        let kind = self.below(12);
        tracing::info!(kind, ?strike, host, leader, "strikes");
        match kind {
            // The old target's way to the leader,
            0..=2 => self.net.strike_host(host, leader, strike),
            // or all its ways, the same on each or not,
            3 => (0..POOLS).for_each(|pool| self.net.strike_host(host, pool, strike)),
            4 => {
                for pool in 0..POOLS {
                    let strike = STRIKES[self.below(STRIKES.len())];
                    self.net.strike_host(host, pool, strike);
                }
            }
            // or some of both targets' ways,
            5..=6 => {
                for _ in 0..3 {
                    let (host, pool) = (self.below(HOSTS), self.below(POOLS));
                    let strike = STRIKES[self.below(STRIKES.len())];
                    self.net.strike_host(host, pool, strike);
                }
            }
            // some ways between pools,
            7..=8 => {
                for _ in 0..2 {
                    let (from, to) = (self.below(POOLS), self.below(POOLS));
                    let strike = STRIKES[self.below(STRIKES.len())];
                    self.net.strike_pools(from, to, strike);
                }
            }
            // all ways of the leader, which only the old target still reaches, and that one nobody else.
            9..=10 => {
                let strike = if self.below(2) == 0 { Strike::Cut } else { Strike::Hold };
                for pool in (0..POOLS).filter(|pool| *pool != leader) {
                    self.net.strike_pools(leader, pool, strike);
                    self.net.strike_pools(pool, leader, strike);
                    self.net.strike_host(host, pool, Strike::Cut);
                }
                self.net.strike_host(1 - host, leader, Strike::Cut);
                return true;
            }
            _ => {}
        }
        false
    }

    /// Waits until one of the targets serves the healed volume.
    async fn settle(&mut self) -> Vec<String> {
        let serve = async {
            loop {
                if self.targets.iter().all(|(_, target)| target.is_fenced()) {
                    return Err("nobody serves the volume: all targets are fenced".to_owned());
                }
                if let Some(owner) = self.owner().filter(|owner| !owner.is_fenced())
                    && owner.read_all().await
                {
                    return Ok(owner.leader());
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        let leader = match timeout(PATIENCE, serve).await {
            Ok(Ok(leader)) => leader.and_then(|pool| self.net.number(pool)),
            Ok(Err(what)) => return vec![what],
            Err(_) => return vec![format!("no target serves the healed volume within {PATIENCE:?}")],
        };
        if leader.is_some() && leader != self.leader {
            self.figures.leaders += u64::from(self.leader.is_some());
            self.leader = leader;
        }
        Vec::new()
    }

    /// Ends those that have lived on for long enough.
    async fn retire(&mut self, round: u64) {
        let owner = self.owner().map(|owner| owner.number);
        let all = std::mem::take(&mut self.targets);
        let is_over = |(born, target): &(u64, Target)| Some(target.number) != owner && born + LINGER <= round;
        let (over, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(is_over);
        self.targets = rest;
        for (_, target) in over {
            target.end().await;
        }
    }
}
