//! The handle that a test holds: clients, faults, and a view of the objects that no fault disturbs.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::collect;
use crate::error::ApiError;
use crate::faults::{Fault, Plan};
use crate::kinds::Kind;
use crate::owners::Owners;
use crate::random::Random;
use crate::serve::Service;
use crate::shared::{Link, LinkState, LogEntry, Shared, State};
use crate::store::{Key, Store};
use crate::write::By;

/// A simulated API server. Clones are the same server.
#[derive(Clone)]
pub struct ApiSim {
    shared: Shared,
}

impl Default for ApiSim {
    fn default() -> Self {
        Self::new(1)
    }
}

/// A client's way to the server, which can be cut.
#[derive(Clone)]
pub struct Connection {
    service: Service,
}

impl ApiSim {
    /// An API server with the namespaces `default` and `kube-system`. The seed decides uids, generated names and the
    /// chance of faults. Its clock is tokio's, from this moment on.
    pub fn new(seed: u64) -> Self {
        Self::starting_at(seed, Timestamp::now())
    }

    /// The same, with a clock that shows this time now: for tests whose objects must not depend on the day.
    pub fn starting_at(seed: u64, time: Timestamp) -> Self {
        let state = State {
            store: Store::new(seed, time),
            plan: Plan::default(),
            random: Random::new(!seed),
            links: Vec::new(),
            log: Vec::new(),
            watch_round: 0,
            watches_held: false,
            watch_delay: Duration::ZERO,
            lose_events: 0,
            pages: Vec::new(),
        };
        let sim = Self { shared: Shared::new(state) };
        for name in ["default", "kube-system"] {
            // Cannot be refused: these are the first objects.
            let _ = sim.namespace(name);
        }
        sim
    }

    /// A new connection; faults and the log know it by its name.
    pub fn connect(&self, name: &str) -> Connection {
        let connection = self.shared.change(|state| {
            state.links.push(LinkState { name: name.to_owned(), link: Link::Up });
            state.links.len() - 1
        });
        Connection { service: Service { shared: self.shared.clone(), connection } }
    }

    /// A client of a new connection that nobody needs to cut.
    pub fn client(&self, name: &str) -> kube::Client {
        self.connect(name).client()
    }

    /// Says that a kind is not in namespaces; those of Kubernetes and Ballast are known.
    pub fn cluster_scoped(&self, group: &str, plural: &str) {
        self.shared.change(|state| state.store.add_cluster_scoped(Kind::new(group, plural)));
    }

    /// Says that a kind's `status` is no subresource.
    pub fn plain_status(&self, group: &str, plural: &str) {
        self.shared.change(|state| state.store.add_plain_status(Kind::new(group, plural)));
    }

    /// Makes a namespace; objects cannot be made in one that is not there.
    pub fn namespace(&self, name: &str) -> Result<(), ApiError> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let by = By { manager: "sim".to_owned(), status: false, force: false };
        let kind = Kind::new("", "namespaces");
        self.shared.change(|state| state.store.create(&kind, None, object, &by)).map(|_| ())
    }

    /// Puts an object there with its status, as if it had grown there; also replaces one.
    pub fn insert<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let object = serde_json::to_value(object).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let kind = Kind::of::<K>();
        let by = By { manager: "sim".to_owned(), status: false, force: false };
        let stored = self.shared.change(|state| {
            let store = &mut state.store;
            let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let key = store.key(&kind, namespace.as_deref(), name)?;
            let mut stored = match store.get(&key) {
                Ok(old) => {
                    let mut new = object.clone();
                    for field in ["uid", "creationTimestamp", "generation"] {
                        new["metadata"][field] = old.object["metadata"][field].clone();
                    }
                    new
                }
                Err(_) => {
                    let mut body = object.clone();
                    body["metadata"]["resourceVersion"] = Value::Null;
                    store.create(&kind, namespace.as_deref(), body, &by)?
                }
            };
            if !object["status"].is_null() {
                stored["status"] = object["status"].clone();
            }
            if store.get(&key).is_ok_and(|there| there.object == stored) {
                return Ok(stored);
            }
            let owners = store.objects.get(&key).map_or_else(Owners::default, |stored| stored.owners.clone());
            Ok(store.put(key, stored, owners))
        })?;
        typed(stored)
    }

    /// One object, None when there is none. `namespace` is ignored for kinds without.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = Kind::of::<K>();
        let state = self.shared.lock();
        let key = |namespace: &str| Key { kind: kind.clone(), namespace: namespace.to_owned(), name: name.to_owned() };
        let stored = state.store.get(&key(namespace)).or_else(|_| state.store.get(&key(""))).ok()?;
        typed(stored.object.clone()).ok()
    }

    /// All objects of a kind in all namespaces, in the order of namespaces and names.
    pub fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = Kind::of::<K>();
        let state = self.shared.lock();
        state.store.of_kind(&kind, None).filter_map(|object| typed(object.clone()).ok()).collect()
    }

    /// Changes an object, also its status, as one that no fault disturbs. False when there is none.
    pub fn edit<K>(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut K)) -> Result<bool, ApiError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let kind = Kind::of::<K>();
        let by = |status| By { manager: "sim".to_owned(), status, force: false };
        self.shared.change(|state| {
            let store = &mut state.store;
            let Ok(key) = store.key(&kind, (!namespace.is_empty()).then_some(namespace), name) else {
                return Err(ApiError::bad_request(format!("{} have another scope", kind.words())));
            };
            let Ok(stored) = store.get(&key) else { return Ok(false) };
            let mut object: K = typed(stored.object.clone())?;
            edit(&mut object);
            let mut new = serde_json::to_value(&object).map_err(|error| ApiError::bad_request(error.to_string()))?;
            if let Some(meta) = new["metadata"].as_object_mut() {
                meta.remove("resourceVersion");
            }
            if store.has_status(&kind) && new["status"] != Value::Null {
                store.replace_whole(&key, new.clone(), &by(true))?;
            }
            // Last: it may take the object away.
            store.replace_whole(&key, new, &by(false))?;
            Ok(true)
        })
    }

    /// Deletes an object in the background manner. False when there is none.
    pub fn delete<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> bool {
        let kind = Kind::of::<K>();
        self.shared.change(|state| {
            let key = state.store.key(&kind, (!namespace.is_empty()).then_some(namespace), name);
            key.and_then(|key| state.store.delete(&key, &Value::Null)).is_ok()
        })
    }

    /// Every object without what differs from run to run: uids, versions, times. Two runs that came to the same end have
    /// the same snapshot as long as their objects' names and contents do not hold uids.
    pub fn snapshot(&self, plurals: &[&str]) -> Vec<Value> {
        let state = self.shared.lock();
        let wanted = state.store.objects.iter().filter(|(key, _)| plurals.contains(&key.kind.plural.as_str()));
        let plain = |object: &Value| {
            let mut object = object.clone();
            if let Some(meta) = object["metadata"].as_object_mut() {
                for field in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "generation"] {
                    meta.remove(field);
                }
            }
            object
        };
        wanted.map(|(_, stored)| plain(&stored.object)).collect()
    }

    /// Adds a line to the fault plan.
    pub fn fault(&self, fault: Fault) {
        self.shared.change(|state| state.plan.add(fault));
    }

    /// Ends the fault plan.
    pub fn clear_faults(&self) {
        self.shared.change(|state| state.plan.clear());
    }

    /// How often a fault struck so far.
    pub fn faults_struck(&self) -> u64 {
        self.shared.lock().plan.struck()
    }

    /// Ends all watches that are open now; clients open them again where they were.
    pub fn close_watches(&self) {
        self.shared.change(|state| state.watch_round += 1);
    }

    /// The next so many events get lost on their way: the clients that they were for know nothing of them until they list
    /// again.
    pub fn lose_events(&self, count: usize) {
        self.shared.change(|state| state.lose_events = count);
    }

    /// Watches show each change only after so long, so that caches are old.
    pub fn delay_watches(&self, time: Duration) {
        self.shared.change(|state| state.watch_delay = time);
    }

    /// Watches show nothing until they are released.
    pub fn hold_watches(&self, held: bool) {
        self.shared.change(|state| state.watches_held = held);
    }

    /// Ends all watches and forgets the history: clients must list again.
    pub fn expire_watches(&self) {
        self.shared.change(|state| {
            // One more revision, so that not even an up-to-date client can go on.
            state.store.revision += 1;
            state.store.compact();
            state.watch_round += 1;
        });
    }

    /// Whether what has no owner and what is in a deleted namespace goes at once (as at the start) or by `collect`.
    pub fn collect_at_once(&self, at_once: bool) {
        self.shared.change(|state| state.store.collect_at_once = at_once);
    }

    /// Deletes what has no owner and what is in a deleted namespace.
    pub fn collect(&self) {
        self.shared.change(|state| collect::collect(&mut state.store));
    }

    /// All requests so far, in the order in which they were carried out.
    pub fn log(&self) -> Vec<LogEntry> {
        self.shared.lock().log.clone()
    }

    /// How many requests a connection made so far.
    pub fn requests(&self, connection: &str) -> usize {
        self.shared.lock().log.iter().filter(|entry| entry.connection == connection).count()
    }

    /// The server's time.
    pub fn now(&self) -> Timestamp {
        self.shared.lock().store.now()
    }

    /// Waits until something is so, looking after each change. False when it is not so in time.
    pub async fn until(&self, time: Duration, mut so: impl FnMut(&Self) -> bool) -> bool {
        let mut ticks = self.shared.ticks.subscribe();
        let ends = tokio::time::Instant::now() + time;
        loop {
            ticks.mark_unchanged();
            if so(self) {
                return true;
            }
            if tokio::time::timeout_at(ends, ticks.changed()).await.is_err() {
                return so(self);
            }
        }
    }

    /// Collects, then waits until there was no request but watches for so long. False when that does not come in ten
    /// minutes: something works without end.
    pub async fn settle(&self, quiet: Duration) -> bool {
        self.collect();
        let ends = tokio::time::Instant::now() + Duration::from_secs(600);
        let count = || self.shared.lock().log.iter().filter(|entry| entry.verb != crate::Verb::Watch).count();
        while tokio::time::Instant::now() < ends {
            let before = count();
            tokio::time::sleep(quiet).await;
            if count() == before {
                return true;
            }
        }
        false
    }
}

fn typed<K: DeserializeOwned>(object: Value) -> Result<K, ApiError> {
    serde_json::from_value(object).map_err(|error| ApiError::bad_request(error.to_string()))
}

impl Connection {
    /// A client over this connection.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service.clone(), "default")
    }

    fn set(&self, link: Link) {
        self.service.shared.change(|state| state.links[self.service.connection].link = link);
    }

    /// The client is dead: from now on its requests are neither carried out nor answered.
    pub fn freeze(&self) {
        self.set(Link::Frozen);
    }

    /// The server cannot be reached: requests fail at once, watches break.
    pub fn cut(&self) {
        self.set(Link::Cut);
    }

    /// The server can be reached again.
    pub fn restore(&self) {
        self.set(Link::Up);
    }

    /// Whether the client is dead, by `freeze` or by a fault.
    pub fn is_frozen(&self) -> bool {
        self.service.shared.lock().links[self.service.connection].link == Link::Frozen
    }

    /// Waits until the client is dead. False when it is not in time.
    pub async fn frozen(&self, time: Duration) -> bool {
        let sim = ApiSim { shared: self.service.shared.clone() };
        sim.until(time, |_| self.is_frozen()).await
    }
}
