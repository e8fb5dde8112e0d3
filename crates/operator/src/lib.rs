//! The operator: from StoragePoolClaims to pools, from CStorVolumes to replicas and targets.
//!
//! ```text
//! StoragePoolClaim --pools::claim--> CStorPool --pools::pool--> BlockDeviceClaims, Service, Deployment
//!                                                    |  asks every pool how it is: observe::Observations
//! CStorVolume --volumes::volume--> CStorVolumeReplicas, Raft group, Service, ConfigMap, Deployment of the target
//! ```
//! Controllers are level-triggered: each look at an object takes what is and does the next steps towards what is wanted. They
//! may be killed between any two steps. What must not be done twice is noted on an object before it is done. Decisions
//! (`select`, `place`, `plan`, `status`, `objects`) are pure functions; the controllers are thin shells around them.
//!
//! What must hold:
//! * one operator acts at a time (a Lease, taken by whoever calls [`run`]);
//! * a Raft id is given once in a volume's life;
//! * no replica is made again under an id after it may have voted;
//! * nothing is concluded from a pool that has not answered, but that it does not answer;
//! * no finalizer waits for a dead process.

mod api;
pub mod clock;
mod context;
pub mod error;
mod objects;
pub mod observe;
pub mod options;
pub mod pools;
pub mod processes;
pub mod volumes;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ballast_api::k8s::{CStorPool, CStorVolume, StoragePoolClaim};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::task::JoinSet;

pub use error::Error;
pub use options::Options;
pub use processes::{Grpc, Processes};

use api::{Object, namespaced};
use context::{Context, Stores};

/// Volumes that are worked on at a time: most of the time of a look is spent waiting for pools.
const VOLUMES_AT_A_TIME: u16 = 16;
/// Pools that are asked at a time.
const POOLS_AT_A_TIME: u16 = 32;
/// After an error: soon enough that a user does not wait, late enough for a server in trouble.
const RETRY: Duration = Duration::from_secs(2);

/// Looks that are under way when the operator stops may take so long. Less than Kubernetes gives a pod.
const GRACE: Duration = Duration::from_secs(10);

/// The operator could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The watches ended, which they do only when the process stops.
    #[error("the watches of the API server ended: {0}; is the API server reachable, and may this account watch?")]
    Stores(#[from] reflector::store::WriterDropped),
}

/// Runs until `shutdown`. The caller has seen to it that no other operator runs.
///
/// A boxed future is compiled here, once, and not in the crate of each caller.
pub fn run(
    client: Client,
    options: Options,
    processes: Arc<dyn Processes>,
    shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), RunError>> {
    Box::pin(operate(client, options, processes, shutdown))
}

async fn operate(
    client: Client,
    options: Options,
    processes: Arc<dyn Processes>,
    shutdown: BoxFuture<'static, ()>,
) -> Result<(), RunError> {
    let mut watches = JoinSet::new();
    let namespace = options.namespace.clone();
    let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=ballast-operator");
    let all = watcher::Config::default;
    let stores = Stores {
        pools: watch(&mut watches, Api::all(client.clone()), all()),
        volumes: watch(&mut watches, namespaced(&client, &namespace), all()),
        replicas: watch(&mut watches, namespaced(&client, &namespace), all()),
        devices: watch(&mut watches, namespaced(&client, &namespace), all()),
        device_claims: watch(&mut watches, namespaced(&client, &namespace), all()),
        nodes: watch(&mut watches, Api::all(client.clone()), all()),
        deployments: watch(&mut watches, namespaced(&client, &namespace), ours.clone()),
        services: watch(&mut watches, namespaced(&client, &namespace), ours.clone()),
        config_maps: watch(&mut watches, namespaced(&client, &namespace), ours.clone()),
        budgets: watch(&mut watches, namespaced(&client, &namespace), ours),
    };
    let shutdown = shutdown.shared();
    tokio::select! {
        ready = stores.ready() => ready?,
        () = shutdown.clone() => return Ok(()),
    }
    tracing::info!(namespace, "operator is running");

    let reporter = Reporter { controller: String::from("ballast-operator"), instance: Some(options.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(Context::new(client.clone(), options, processes, recorder, stores));
    // Claims one after the other: two must not choose the same device.
    let claims: Api<StoragePoolClaim> = Api::all(client.clone());
    let claims = control(claims, 1, pools::claim::reconcile, &context, shutdown.clone());
    let pools: Api<CStorPool> = Api::all(client.clone());
    let pools = control(pools, POOLS_AT_A_TIME, pools::pool::reconcile, &context, shutdown.clone());
    let volumes: Api<CStorVolume> = namespaced(&client, &namespace);
    let volumes = control(volumes, VOLUMES_AT_A_TIME, volumes::volume::reconcile, &context, shutdown.clone());
    tokio::select! {
        _ = futures_util::future::join3(claims, pools, volumes) => {}
        // What is under way may be finished, but everything can be left in the middle.
        () = async { shutdown.await; tokio::time::sleep(GRACE).await } => {}
    }
    watches.abort_all();
    Ok(())
}

/// A controller of one kind: looks at every object when it changes and when its last look asked for it.
fn control<K, R>(
    api: Api<K>,
    at_a_time: u16,
    reconcile: fn(Arc<K>, Arc<Context>) -> R,
    context: &Arc<Context>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) -> impl Future<Output = ()>
where
    K: Object + Unpin,
    R: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let on_error = |object: Arc<K>, error: &Error, _: Arc<Context>| {
        tracing::warn!(kind = %K::kind(&()), name = kube::ResourceExt::name_any(&*object), %error, "tried again");
        Action::requeue(RETRY)
    };
    Controller::new(api, watcher::Config::default())
        .with_config(Config::default().concurrency(at_a_time))
        .graceful_shutdown_on(shutdown)
        .run(reconcile, on_error, context.clone())
        .for_each(|_| std::future::ready(()))
}

/// Keeps a store of the objects of one kind.
fn watch<K>(tasks: &mut JoinSet<()>, api: Api<K>, config: watcher::Config) -> Store<K>
where
    K: Object,
{
    let (reader, writer) = reflector::store();
    let objects = reflector::reflector(writer, watcher(api, config).default_backoff()).for_each(|event| {
        if let Err(error) = event {
            tracing::warn!(kind = %K::kind(&()), %error, "watching goes on");
        }
        std::future::ready(())
    });
    tasks.spawn(objects);
    reader
}
