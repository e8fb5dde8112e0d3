//! From a request's method and URL to what it asks for.
//!
//! ```text
//! /api/v1/[namespaces/NS/]PLURAL[/NAME[/status]]            the core group
//! /apis/GROUP/VERSION/[namespaces/NS/]PLURAL[/NAME[/status]]
//! ```

use std::collections::BTreeMap;

use http::Method;

use crate::error::ApiError;
use crate::kinds::Kind;

/// What is done to an object or to a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// JSON merge patch (RFC 7386).
    Patch,
    /// Server-side apply.
    Apply,
    /// Delete one object.
    Delete,
    /// Delete a collection.
    DeleteCollection,
}

impl Verb {
    /// Whether it can change anything.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) verb: Verb,
    pub(crate) kind: Kind,
    pub(crate) version: String,
    /// None: all namespaces, or a kind without.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// Only "status" is served.
    pub(crate) status: bool,
    pub(crate) query: BTreeMap<String, String>,
}

impl Route {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.param(name).is_some_and(|text| text == "true" || text == "1")
    }
}

pub(crate) fn parse(method: &Method, path: &str, query: Option<&str>, content_type: &str) -> Result<Route, ApiError> {
    let unknown = || ApiError::new(404, "NotFound", format!("the simulated API server does not know the path {path}"));
    let mut words = path.split('/').filter(|word| !word.is_empty());
    let (group, version) = match words.next() {
        Some("api") => ("", words.next().ok_or_else(unknown)?),
        Some("apis") => (words.next().ok_or_else(unknown)?, words.next().ok_or_else(unknown)?),
        _ => return Err(unknown()),
    };
    let rest: Vec<&str> = words.collect();
    let (namespace, rest) = match rest.as_slice() {
        // The namespace itself, not something in it.
        ["namespaces", _] | ["namespaces", _, "status"] => (None, rest.as_slice()),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, status) = match rest {
        [plural] => (*plural, None, false),
        [plural, name] => (*plural, Some((*name).to_owned()), false),
        [plural, name, "status"] => (*plural, Some((*name).to_owned()), true),
        _ => return Err(unknown()),
    };
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let watch = query.get("watch").is_some_and(|text| text == "true" || text == "1");
    let verb = match (method, name.is_some()) {
        (&Method::GET, true) => Verb::Get,
        (&Method::GET, false) if watch => Verb::Watch,
        (&Method::GET, false) => Verb::List,
        (&Method::POST, false) => Verb::Create,
        (&Method::PUT, true) => Verb::Update,
        (&Method::PATCH, true) => patch_verb(content_type)?,
        (&Method::DELETE, true) => Verb::Delete,
        (&Method::DELETE, false) => Verb::DeleteCollection,
        _ => return Err(ApiError::new(405, "MethodNotAllowed", format!("{method} {path}"))),
    };
    if query.contains_key("dryRun") {
        return Err(ApiError::bad_request("the simulated API server has no dry run"));
    }
    Ok(Route { verb, kind: Kind::new(group, plural), version: version.to_owned(), namespace, name, status, query })
}

fn patch_verb(content_type: &str) -> Result<Verb, ApiError> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => Ok(Verb::Patch),
        "application/apply-patch+yaml" => Ok(Verb::Apply),
        other => {
            let message = format!("the simulated API server takes merge patches and server-side apply, not '{other}'");
            Err(ApiError::new(415, "UnsupportedMediaType", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> (String, String, Option<String>, Option<String>, bool) {
        let route = parse(&Method::GET, path, None, "").unwrap();
        (route.kind.group, route.kind.plural, route.namespace, route.name, route.status)
    }

    #[test]
    fn paths() {
        let some = |text: &str| Some(text.to_owned());
        let pods = |namespace, name, status| (String::new(), "pods".to_owned(), namespace, name, status);
        assert_eq!(get("/api/v1/pods"), pods(None, None, false));
        assert_eq!(get("/api/v1/namespaces/a/pods"), pods(some("a"), None, false));
        assert_eq!(get("/api/v1/namespaces/a/pods/b"), pods(some("a"), some("b"), false));
        assert_eq!(get("/api/v1/namespaces/a/pods/b/status"), pods(some("a"), some("b"), true));
        assert_eq!(get("/api/v1/namespaces/a"), (String::new(), "namespaces".to_owned(), None, some("a"), false));
        assert_eq!(get("/api/v1/namespaces"), (String::new(), "namespaces".to_owned(), None, None, false));
        let group = ("openebs.io".to_owned(), "cstorvolumes".to_owned(), some("o"), some("v"), true);
        assert_eq!(get("/apis/openebs.io/v1alpha1/namespaces/o/cstorvolumes/v/status"), group);
    }

    #[test]
    fn verbs() {
        let verb = |method: Method, path: &str, query: &str, content: &str| {
            parse(&method, path, Some(query), content).map(|route| route.verb).map_err(|error| error.code)
        };
        assert_eq!(verb(Method::GET, "/api/v1/pods", "watch=true", ""), Ok(Verb::Watch));
        assert_eq!(verb(Method::GET, "/api/v1/pods", "limit=5", ""), Ok(Verb::List));
        assert_eq!(verb(Method::DELETE, "/api/v1/namespaces/a/pods", "", ""), Ok(Verb::DeleteCollection));
        let one = "/api/v1/namespaces/a/pods/b";
        assert_eq!(verb(Method::PATCH, one, "", "application/apply-patch+yaml"), Ok(Verb::Apply));
        assert_eq!(verb(Method::PATCH, one, "", "application/json-patch+json"), Err(415));
        assert_eq!(verb(Method::POST, one, "", ""), Err(405));
        assert_eq!(verb(Method::GET, "/healthz", "", ""), Err(404));
    }
}
