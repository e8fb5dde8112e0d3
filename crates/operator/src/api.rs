//! Writing to the API server: server-side apply, status patches, finalizers, events. Every write can be repeated.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Name under which the API server notes what the operator owns.
pub(crate) const MANAGER: &str = "ballast-operator";
/// On objects that the operator applies: a digest of what was applied, so that the same again is not sent.
const APPLIED: &str = "openebs.io/applied";

/// What a kind must be for all this.
pub(crate) trait Object:
    Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
}
impl<K> Object for K where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
}

/// The objects of a kind in a namespace.
pub(crate) fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), namespace)
}

/// 64 bits over what is applied. It only saves a request; a collision would leave a change out until the next one.
fn digest(value: &Value) -> String {
    let text = value.to_string();
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Whether `current` shows that something else was applied before.
pub(crate) fn differs<K: Object>(wanted: &K, current: &K) -> bool {
    serde_json::to_value(wanted).is_ok_and(|value| current.annotations().get(APPLIED) != Some(&digest(&value)))
}

/// Makes the object be as `wanted` says, unless `current` shows that it was applied just so already.
/// Returns the object as it is then.
pub(crate) async fn ensure<K: Object>(api: &Api<K>, wanted: &K, current: Option<&K>) -> kube::Result<K> {
    let mut value = serde_json::to_value(wanted).map_err(kube::Error::SerdeError)?;
    let digest = digest(&value);
    if let Some(current) = current
        && current.annotations().get(APPLIED) == Some(&digest)
    {
        return Ok(current.clone());
    }
    value["metadata"]["annotations"][APPLIED] = json!(digest);
    api.patch(&wanted.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(value)).await
}

/// Makes the object unless one of that name is there. True when it was made now.
pub(crate) async fn create<K: Object>(api: &Api<K>, object: &K) -> kube::Result<bool> {
    match api.create(&PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }, object).await {
        Ok(_) => Ok(true),
        Err(error) if is_code(&error, 409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Replaces the status (a merge patch of the whole status), if it changed.
pub(crate) async fn set_status<K: Object, S: Serialize + PartialEq>(
    api: &Api<K>,
    name: &str,
    old: Option<&S>,
    new: &S,
) -> kube::Result<()> {
    if old == Some(new) {
        return Ok(());
    }
    let patch = nulled(json!({ "status": old }), json!({ "status": new }));
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        // Gone meanwhile: nothing is left that could have a status.
        Err(error) if is_code(&error, 404) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// `new`, with null for what only `old` has: a merge patch removes nothing else.
fn nulled(old: Value, new: Value) -> Value {
    match (old, new) {
        (Value::Object(old), Value::Object(mut new)) => {
            for (key, before) in old {
                let after = new.remove(&key).unwrap_or(Value::Null);
                new.insert(key, nulled(before, after));
            }
            Value::Object(new)
        }
        (_, new) => new,
    }
}

/// Changes some fields of the object (a merge patch).
pub(crate) async fn merge<K: Object>(api: &Api<K>, name: &str, patch: &Value) -> kube::Result<()> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}

/// Adds the finalizer if it is missing.
pub(crate) async fn add_finalizer<K: Object>(api: &Api<K>, object: &K, finalizer: &str) -> kube::Result<()> {
    change_finalizers(api, object, finalizer, true).await
}

/// Takes the finalizer away; then the object may go.
pub(crate) async fn remove_finalizer<K: Object>(api: &Api<K>, object: &K, finalizer: &str) -> kube::Result<()> {
    change_finalizers(api, object, finalizer, false).await
}

/// With the version that was read: somebody else's finalizer is never overwritten. When that version is old (a store may be),
/// once more with the newest.
async fn change_finalizers<K: Object>(api: &Api<K>, object: &K, finalizer: &str, wanted: bool) -> kube::Result<()> {
    match try_finalizers(api, object, finalizer, wanted).await {
        Err(error) if is_code(&error, 409) => match api.get_opt(&object.name_any()).await? {
            Some(fresh) => try_finalizers(api, &fresh, finalizer, wanted).await,
            None => Ok(()),
        },
        other => other,
    }
}

async fn try_finalizers<K: Object>(api: &Api<K>, object: &K, finalizer: &str, wanted: bool) -> kube::Result<()> {
    let present = object.finalizers().iter().any(|present| present == finalizer);
    if present == wanted {
        return Ok(());
    }
    let others = object.finalizers().iter().map(String::as_str).filter(|present| *present != finalizer);
    let finalizers: Vec<&str> = others.chain(wanted.then_some(finalizer)).collect();
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": object.resource_version() } });
    match merge(api, &object.name_any(), &patch).await {
        // Gone already.
        Err(error) if !wanted && is_code(&error, 404) => Ok(()),
        other => other,
    }
}

/// Deletes the object; one that is not there is deleted already.
pub(crate) async fn delete<K: Object>(api: &Api<K>, name: &str) -> kube::Result<()> {
    match api.delete(name, &DeleteParams::background()).await {
        Err(error) if is_code(&error, 404) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Whether the API server answered with this code.
pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Says something about an object, for people. Lost when the API server does not take it: an event is no state.
pub(crate) async fn event<K: Object>(recorder: &Recorder, object: &K, warning: bool, reason: &str, note: String) {
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(note),
        action: reason.to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::debug!(%error, reason, "an event was not taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_more_is_taken_out() {
        let old = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [1] });
        let new = json!({ "a": 1, "b": { "d": 4 } });
        assert_eq!(nulled(old, new), json!({ "a": 1, "b": { "c": null, "d": 4 }, "e": null }));
        assert_eq!(nulled(Value::Null, json!({ "a": 1 })), json!({ "a": 1 }));
    }
}
