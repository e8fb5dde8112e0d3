//! The objects as they were last seen: by the watch, or in the answer to a write of ours, whichever is newer.

use std::collections::BTreeMap;

use kube::Resource;
use kube::runtime::watcher::Event;

/// Objects of one kind by name.
#[derive(Debug)]
pub(super) struct Cache<K> {
    objects: BTreeMap<String, K>,
    /// What a new list has shown so far.
    listing: Option<BTreeMap<String, K>>,
    complete: bool,
}

impl<K: Resource> Cache<K> {
    pub(super) fn new() -> Self {
        Self { objects: BTreeMap::new(), listing: None, complete: false }
    }

    /// Whether all objects have been seen.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn objects(&self) -> &BTreeMap<String, K> {
        &self.objects
    }

    /// What the watch says.
    pub(super) fn note(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => match &mut self.listing {
                Some(listing) => {
                    listing.insert(object.meta().name.clone().unwrap_or_default(), object);
                }
                None => self.put(object),
            },
            Event::InitDone => {
                if let Some(listing) = self.listing.take() {
                    self.objects = listing;
                }
                self.complete = true;
            }
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => {
                let name = object.meta().name.as_deref().unwrap_or_default();
                if self.objects.get(name).is_some_and(|known| !is_older(&object, known)) {
                    self.objects.remove(name);
                }
            }
        }
    }

    /// An object as it is now, unless a newer one is known: our own writes are answered before the watch shows them.
    pub(super) fn put(&mut self, object: K) {
        let name = object.meta().name.clone().unwrap_or_default();
        if self.objects.get(&name).is_none_or(|known| !is_older(&object, known)) {
            self.objects.insert(name, object);
        }
    }
}

/// Versions of one object count up (Kubernetes API concepts, "Resource versions"). One that is not a number says nothing.
fn is_older<K: Resource>(object: &K, known: &K) -> bool {
    let version = |object: &K| object.meta().resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    matches!((version(object), version(known)), (Some(object), Some(known)) if object < known)
}

#[cfg(test)]
mod tests {
    use ballast_api::k8s::Disk;

    use super::*;

    fn disk(name: &str, version: &str, path: &str) -> Disk {
        let mut disk = Disk::new(name, Default::default());
        disk.metadata.resource_version = Some(version.to_owned());
        disk.spec.path = path.to_owned();
        disk
    }

    #[test]
    fn the_newest_counts() {
        let mut cache = Cache::new();
        cache.note(Event::Init);
        cache.note(Event::InitApply(disk("a", "5", "five")));
        assert!(!cache.is_complete() && cache.objects().is_empty());
        cache.note(Event::InitDone);
        assert!(cache.is_complete());
        cache.put(disk("a", "9", "nine"));
        cache.note(Event::Apply(disk("a", "7", "seven")));
        assert_eq!(cache.objects()["a"].spec.path, "nine", "the watch is late");
        cache.note(Event::Delete(disk("a", "8", "eight")));
        assert!(cache.objects().contains_key("a"));
        cache.note(Event::Delete(disk("a", "10", "ten")));
        assert!(cache.objects().is_empty());
        // A new list is the truth, and nothing is forgotten while it comes.
        cache.put(disk("b", "1", "one"));
        cache.note(Event::Init);
        cache.note(Event::InitApply(disk("c", "2", "two")));
        assert!(cache.objects().contains_key("b"));
        cache.note(Event::InitDone);
        assert_eq!(cache.objects().keys().collect::<Vec<_>>(), ["c"]);
    }
}
