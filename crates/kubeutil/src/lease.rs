//! One active controller among several processes, by a Lease
//! (<https://kubernetes.io/docs/concepts/architecture/leases/>), after the rules of Kubernetes' own controllers.
//!
//! * Nobody compares its clock with another machine's: a candidate measures, on its own clock, how long a record has not
//!   changed, and takes the lease over only after the record's whole duration.
//! * Every write carries the version of the record that it was decided on, so that two candidates cannot both win.
//! * The leader counts from *before* the request that last renewed. When `renew_within` passes without another success it
//!   drops its work, well before a candidate may take over. This holds although the API server cannot be reached.
//!
//! Requests that a leader sent before it stopped can still arrive later. Work must therefore be such that it does no harm
//! when two do it at once: each write decided on the version it read, or the same whoever does it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use tokio::time::{Instant, sleep, timeout};

use crate::Stop;

/// Which lease, for whom, and how quickly it changes hands.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Where the Lease is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who this is: the name of the pod. A process that comes back under the same name goes on at once.
    pub identity: String,
    /// A lease that was not renewed for so long may be taken.
    pub duration: Duration,
    /// A leader that could not renew for so long stops. Shorter than `duration`.
    pub renew_within: Duration,
    /// Between two tries.
    pub retry: Duration,
}

impl LeaseOptions {
    /// The times that Kubernetes' own controllers use: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why leading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// The work ended by itself, or because it was asked to; the lease is free again.
    Done(T),
    /// Asked to stop before this process was the leader.
    NeverLed,
    /// Another process may lead now; the work was dropped where it stood. End the process and start anew.
    Lost,
}

/// What a candidate knows of the record, on its own clock.
#[derive(Clone, Debug)]
struct Seen {
    spec: LeaseSpec,
    version: Option<String>,
    since: Instant,
}

/// What to do about a record.
#[derive(Debug, PartialEq)]
enum Move {
    /// Write this.
    Write(Box<LeaseSpec>),
    /// Another one leads.
    Wait,
}

/// Decides on a record that has looked as it does for `unchanged`.
fn decide(spec: Option<&LeaseSpec>, unchanged: Duration, options: &LeaseOptions, now: Timestamp) -> Move {
    let empty = LeaseSpec::default();
    let spec = spec.unwrap_or(&empty);
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let mine = holder == options.identity;
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(options.duration, Duration::from_secs);
    if !holder.is_empty() && !mine && unchanged < duration {
        return Move::Wait;
    }
    let changes = spec.lease_transitions.unwrap_or_default();
    Move::Write(Box::new(LeaseSpec {
        holder_identity: Some(options.identity.clone()),
        lease_duration_seconds: i32::try_from(options.duration.as_secs()).ok(),
        renew_time: Some(MicroTime(now)),
        acquire_time: if mine { spec.acquire_time.clone() } else { Some(MicroTime(now)) },
        lease_transitions: Some(if mine { changes } else { changes.saturating_add(1) }),
        ..spec.clone()
    }))
}

struct Candidate<'a> {
    api: Api<Lease>,
    options: &'a LeaseOptions,
    seen: Option<Seen>,
}

enum Tried {
    /// Leading, by a request that was sent then.
    Led(Instant),
    Other(String),
}

impl Candidate<'_> {
    /// One look at the record and, when it is free or ours, one write. Boxed, so that it is compiled here, once.
    fn attempt(&mut self) -> BoxFuture<'_, Result<Tried, Error>> {
        Box::pin(self.try_once())
    }

    async fn try_once(&mut self) -> Result<Tried, Error> {
        let options = self.options;
        let sent = Instant::now();
        let lease = self.api.get_opt(&options.name).await?;
        let Some(lease) = lease else {
            let Move::Write(spec) = decide(None, Duration::ZERO, options, Timestamp::now()) else {
                return Ok(Tried::Other(String::new()));
            };
            let metadata = ObjectMeta { name: Some(options.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(*spec) };
            let made = self.api.create(&PostParams::default(), &lease).await?;
            self.note(&made, sent);
            return Ok(Tried::Led(sent));
        };
        let version = lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            // Now, not when the request was sent: the record may be as young as its answer.
            self.note(&lease, Instant::now());
        }
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |seen| seen.since.elapsed());
        match decide(lease.spec.as_ref(), unchanged, options, Timestamp::now()) {
            Move::Wait => Ok(Tried::Other(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())),
            Move::Write(spec) => {
                let sent = Instant::now();
                // The version that was read is sent back: a change meanwhile is a conflict.
                let lease = Lease { spec: Some(*spec), ..lease };
                let written = self.api.replace(&options.name, &PostParams::default(), &lease).await?;
                self.note(&written, sent);
                Ok(Tried::Led(sent))
            }
        }
    }

    fn note(&mut self, lease: &Lease, since: Instant) {
        let spec = lease.spec.clone().unwrap_or_default();
        self.seen = Some(Seen { spec, version: lease.metadata.resource_version.clone(), since });
    }

    /// Until the lease is ours. When the request that won was sent.
    async fn acquire(&mut self) -> Instant {
        let mut told = None;
        loop {
            match timeout(self.options.renew_within, self.attempt()).await {
                Ok(Ok(Tried::Led(sent))) => return sent,
                Ok(Ok(Tried::Other(holder))) => {
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(lease = self.options.name, holder, "another process leads; waiting");
                        told = Some(holder);
                    }
                }
                Ok(Err(Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.options.name, %error, "cannot get the lease; trying again")
                }
                Err(_) => tracing::warn!(lease = self.options.name, "no answer about the lease; trying again"),
            }
            sleep(self.options.retry).await;
        }
    }

    /// As long as the lease is ours.
    async fn keep(&mut self, mut renewed: Instant) {
        loop {
            let left = (renewed + self.options.renew_within).saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!(lease = self.options.name, "the lease could not be renewed in time; stopping");
                return;
            }
            sleep(self.options.retry.min(left)).await;
            let left = (renewed + self.options.renew_within).saturating_duration_since(Instant::now());
            match timeout(left, self.attempt()).await {
                Ok(Ok(Tried::Led(sent))) => renewed = sent,
                Ok(Ok(Tried::Other(holder))) => {
                    tracing::error!(lease = self.options.name, holder, "another process took the lease; stopping");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(lease = self.options.name, %error, "the lease was not renewed"),
                Err(_) => {}
            }
        }
    }

    /// Leaves the lease to the next one at once.
    fn release(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.give_back())
    }

    async fn give_back(&mut self) {
        let Some(seen) = self.seen.take() else { return };
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..seen.spec
        };
        let name = Some(self.options.name.clone());
        let metadata = ObjectMeta { name, resource_version: seen.version, ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        let params = PostParams::default();
        let written = timeout(self.options.retry, self.api.replace(&self.options.name, &params, &lease)).await;
        if !matches!(written, Ok(Ok(_))) {
            tracing::info!(
                lease = self.options.name,
                "the lease was not given back; the next leader waits for its end"
            );
        }
    }
}

/// Waits for the lease, works while it is held, gives it back. `work` gets a [`Stop`] that is requested when `shutdown`
/// is done, and must end soon after; when the lease is lost it is dropped at once, wherever it stands. Everything that the
/// work does must therefore happen inside its future: tasks that it spawned would go on.
pub async fn lead<T, W>(
    client: Client,
    options: &LeaseOptions,
    shutdown: impl Future<Output = ()>,
    work: impl FnOnce(Stop) -> W,
) -> Ended<T>
where
    W: Future<Output = T>,
{
    let api = Api::namespaced(client, &options.namespace);
    let mut candidate = Candidate { api, options, seen: None };
    tokio::pin!(shutdown);
    let renewed = tokio::select! {
        renewed = candidate.acquire() => renewed,
        () = &mut shutdown => return Ended::NeverLed,
    };
    tracing::info!(lease = options.name, identity = options.identity, "leading");
    let (stopper, stop) = Stop::pair();
    let work = async {
        let work = work(stop);
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = &mut shutdown => stopper.stop(),
        }
        work.await
    };
    let done = tokio::select! {
        done = work => done,
        () = candidate.keep(renewed) => return Ended::Lost,
    };
    candidate.release().await;
    Ended::Done(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(identity: &str) -> LeaseOptions {
        LeaseOptions::new("n", "l", identity)
    }

    fn record(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_record_of_another_one_is_left_alone_for_its_whole_duration() {
        let now = Timestamp::now();
        let unchanged = |seconds| decide(Some(&record("a")), Duration::from_secs(seconds), &options("b"), now);
        assert_eq!(unchanged(0), Move::Wait);
        assert_eq!(unchanged(14), Move::Wait);
        let Move::Write(spec) = unchanged(15) else { panic!("not taken") };
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!((spec.lease_transitions, spec.acquire_time), (Some(4), Some(MicroTime(now))));
    }

    #[test]
    fn ones_own_record_is_renewed_and_a_free_one_taken() {
        let now = Timestamp::now();
        let Move::Write(spec) = decide(Some(&record("a")), Duration::ZERO, &options("a"), now) else { panic!() };
        assert_eq!((spec.lease_transitions, &spec.renew_time), (Some(3), &Some(MicroTime(now))));
        assert_eq!(spec.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        for free in [None, Some(&record(""))] {
            let Move::Write(spec) = decide(free, Duration::ZERO, &options("b"), now) else { panic!() };
            assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        }
    }
}
