//! Writes that controllers do: server-side apply under one name, finalizers with the version that was read.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// A conflict of an apply is one of timing and goes away when it is sent again.
const TRIES: u32 = 4;

/// Whether a request failed with this status.
pub fn is_status<T>(result: &Result<T, Error>, code: u16) -> bool {
    matches!(result, Err(Error::Api(status)) if status.code == code)
}

/// Server-side apply as one field manager, which takes the fields that it names.
#[derive(Clone, Debug)]
pub struct Applier {
    manager: String,
}

impl Applier {
    /// The name under which fields are owned.
    pub fn new(manager: &str) -> Self {
        Self { manager: manager.to_owned() }
    }

    /// The name, for other writes.
    pub fn manager(&self) -> &str {
        &self.manager
    }

    fn params(&self) -> PatchParams {
        PatchParams::apply(&self.manager).force()
    }

    /// Applies an object's own fields.
    pub async fn apply<K>(&self, api: &Api<K>, name: &str, config: &(impl Serialize + Debug)) -> Result<K, Error>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let (params, patch) = (self.params(), Patch::Apply(config));
        again(|| api.patch(name, &params, &patch)).await
    }

    /// Applies an object's status.
    pub async fn apply_status<K>(&self, api: &Api<K>, name: &str, config: &(impl Serialize + Debug)) -> Result<K, Error>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let (params, patch) = (self.params(), Patch::Apply(config));
        again(|| api.patch_status(name, &params, &patch)).await
    }
}

async fn again<T, F: Future<Output = Result<T, Error>>>(request: impl Fn() -> F) -> Result<T, Error> {
    for attempt in 1..TRIES {
        let result = request().await;
        if !is_status(&result, 409) {
            return result;
        }
        tokio::time::sleep(Duration::from_millis(50) * attempt).await;
    }
    request().await
}

/// Puts a finalizer on an object as it was read; a conflict when it changed since.
pub async fn add_finalizer<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut list = object.meta().finalizers.clone().unwrap_or_default();
    if list.iter().any(|there| there == finalizer) {
        return Ok(());
    }
    list.push(finalizer.to_owned());
    set_finalizers(api, object, &list).await
}

/// Takes a finalizer off an object as it was read; a conflict when it changed since, nothing when the object is gone.
pub async fn remove_finalizer<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut list = object.meta().finalizers.clone().unwrap_or_default();
    let before = list.len();
    list.retain(|there| there != finalizer);
    if list.len() == before {
        return Ok(());
    }
    let result = set_finalizers(api, object, &list).await;
    if is_status(&result, 404) { Ok(()) } else { result }
}

async fn set_finalizers<K>(api: &Api<K>, object: &K, list: &[String]) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let meta = object.meta();
    let patch = json!({"metadata": {
        "finalizers": list, "resourceVersion": meta.resource_version, "uid": meta.uid,
    }});
    let name = meta.name.clone().unwrap_or_default();
    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}
