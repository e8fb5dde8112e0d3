//! Events: what a controller tells people about an object, seen in `kubectl describe`.
//!
//! The same words about the same object are written once; when they are said again, only every few minutes, and then as
//! one more in a series. Events are for people: one that cannot be written is logged and forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use tokio::time::Instant;

/// The same words again after so long.
const AGAIN: Duration = Duration::from_secs(600);
/// Words that were not said for so long are forgotten: the API server forgets events after an hour.
const FORGET: Duration = Duration::from_secs(3000);
/// The longest note that the API takes, in bytes.
const LONGEST: usize = 1024;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Words {
    uid: String,
    reason: String,
    note: String,
}

#[derive(Clone)]
struct Said {
    name: String,
    times: i32,
    at: Instant,
}

/// Writes events for one controller. Clones share what was said.
#[derive(Clone)]
pub struct Reporter {
    client: Client,
    controller: String,
    instance: String,
    said: Arc<Mutex<HashMap<Words, Said>>>,
}

impl Reporter {
    /// `controller` is the name that stands under "From" ("openebs.io/provisioner-iscsi"), `instance` the process.
    pub fn new(client: Client, controller: &str, instance: &str) -> Self {
        let said = Arc::new(Mutex::new(HashMap::new()));
        Self { client, controller: controller.to_owned(), instance: instance.to_owned(), said }
    }

    /// Something went as it should.
    pub async fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, note: &str) {
        self.tell("Normal", about, reason, note).await;
    }

    /// Something is in the way; the note says what to do.
    pub async fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, note: &str) {
        self.tell("Warning", about, reason, note).await;
    }

    async fn tell<K: Resource<DynamicType = ()>>(&self, type_: &str, about: &K, reason: &str, note: &str) {
        let mut object = about.object_ref(&());
        // The event is about the object, not about one version of it.
        object.resource_version = None;
        let note = shorten(note);
        let uid = object.uid.clone().unwrap_or_default();
        let words = Words { uid, reason: reason.to_owned(), note: note.to_owned() };
        let now = Instant::now();
        let before = {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.retain(|_, said| said.at + FORGET > now);
            said.get(&words).cloned()
        };
        if before.as_ref().is_some_and(|said| said.at + AGAIN > now) {
            return;
        }
        match self.write(type_, object, &words, before).await {
            Ok(said) => {
                self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(words, said);
            }
            Err(error) => tracing::warn!(%error, reason, note, "an event could not be written"),
        }
    }

    async fn write(
        &self,
        type_: &str,
        object: ObjectReference,
        words: &Words,
        before: Option<Said>,
    ) -> Result<Said, kube::Error> {
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let now = Timestamp::now();
        if let Some(said) = before {
            let times = said.times.saturating_add(1);
            let series = EventSeries { count: times, last_observed_time: MicroTime(now) };
            let patch = serde_json::json!({ "series": series });
            match events.patch(&said.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(Said { times, at: Instant::now(), ..said }),
                // It was there too long and is gone.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let about = object.name.clone().unwrap_or_default();
        // Short enough for a name, whatever the object's is.
        let about: String = about.chars().take(200).collect();
        let metadata = ObjectMeta {
            // The API server wants what could be a name, but for a dash at the end.
            generate_name: Some(format!("{}-", about.trim_end_matches(['.', '-']))),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        };
        let event = Event {
            metadata,
            action: Some(words.reason.clone()),
            reason: Some(words.reason.clone()),
            note: Some(words.note.clone()),
            type_: Some(type_.to_owned()),
            event_time: Some(MicroTime(now)),
            regarding: Some(object),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        let made = events.create(&PostParams::default(), &event).await?;
        Ok(Said { name: made.metadata.name.unwrap_or_default(), times: 1, at: Instant::now() })
    }
}

fn shorten(note: &str) -> &str {
    let mut end = note.len().min(LONGEST);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    &note[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_fit() {
        assert_eq!(shorten("a"), "a");
        assert_eq!(shorten(&"ä".repeat(600)).len(), 1024);
        assert_eq!(shorten(&format!("x{}", "ä".repeat(600))).len(), 1023);
    }
}
