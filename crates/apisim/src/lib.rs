//! A Kubernetes API server in memory, for tests of controllers.
//!
//! It speaks to a real `kube::Client` and keeps objects of any kind as JSON. What controllers lean on is as in the real
//! server: optimistic locking, generations, the status subresource, finalizers, owners, server-side apply with owners of
//! fields, selectors, paged lists, watches that resume, bookmark and expire. What is not there: schemas and their checks,
//! admission, authorization, JSON and strategic patches, dry runs, `metadata.managedFields`, the kubelet and the built-in
//! controllers but the garbage collector and the one that empties namespaces.
//!
//! Everything that happens in production and rarely in tests can be had on demand: refused requests, answers that get lost
//! after the work was done, old caches, broken watches, and a client that dies at exactly its n-th request
//! ([`Fault`], [`Connection::freeze`]). With tokio's clock stopped (`start_paused`) hours pass in a moment, and one seed
//! gives one run.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ballast_apisim::{ApiSim, Fault, Verb};
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::api::{Api, PostParams};
//!
//! let sim = ApiSim::default();
//! sim.fault(Fault::first(1).on(Verb::Create).status(503).applied());
//! let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
//! let map = ConfigMap { metadata: kube::api::ObjectMeta { name: Some("a".into()), ..Default::default() }, ..Default::default() };
//! assert!(maps.create(&PostParams::default(), &map).await.is_err());
//! assert!(sim.get::<ConfigMap>("default", "a").is_some());
//! # Ok(())
//! # }
//! ```

mod admit;
mod collect;
mod error;
mod faults;
mod fields;
mod kinds;
mod owners;
mod random;
mod route;
mod select;
mod serve;
mod shared;
mod sim;
mod store;
mod watch;
mod write;

pub use error::ApiError;
pub use faults::Fault;
pub use kinds::Kind;
pub use route::Verb;
pub use shared::LogEntry;
pub use sim::{ApiSim, Connection};
