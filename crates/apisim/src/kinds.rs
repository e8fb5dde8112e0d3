//! What must be known of kinds: their scope, and whether they are built in or defined by a custom resource.

/// A kind, by the words of its URL. Versions of one kind share their objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// API group, empty for the core.
    pub group: String,
    /// Plural name, lower case.
    pub plural: String,
}

impl Kind {
    /// By group and plural.
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.to_owned(), plural: plural.to_owned() }
    }

    /// Of a type.
    pub fn of<K: kube::Resource<DynamicType = ()>>() -> Self {
        Self::new(&K::group(&()), &K::plural(&()))
    }

    /// Whether the API server itself defines it; the others have schemas without merge keys.
    pub(crate) fn built_in(&self) -> bool {
        !self.group.contains('.') || self.group.ends_with(".k8s.io")
    }

    /// `plural` or `plural.group`, as in error messages.
    pub(crate) fn words(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Kinds that are not in a namespace.
pub(crate) const CLUSTER_SCOPED: [(&str, &str); 14] = [
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumes"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("openebs.io", "cstorpools"),
    ("openebs.io", "disks"),
    ("openebs.io", "storagepoolclaims"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Kinds whose objects have a field `status` that is no subresource.
pub(crate) const PLAIN_STATUS: [(&str, &str); 1] = [("openebs.io", "disks")];

/// Known names of kinds, for lists that are empty. The others are learnt from the first object.
pub(crate) const NAMES: [(&str, &str, &str); 13] = [
    ("", "configmaps", "ConfigMap"),
    ("", "events", "Event"),
    ("", "namespaces", "Namespace"),
    ("", "nodes", "Node"),
    ("", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("", "persistentvolumes", "PersistentVolume"),
    ("", "pods", "Pod"),
    ("", "secrets", "Secret"),
    ("", "services", "Service"),
    ("apps", "daemonsets", "DaemonSet"),
    ("apps", "deployments", "Deployment"),
    ("policy", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("storage.k8s.io", "storageclasses", "StorageClass"),
];
