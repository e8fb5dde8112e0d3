//! From a request to its answer: the service that goes into `kube::Client::new`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::faults::{Answer, Effect, Subject};
use crate::route::{self, Route, Verb};
use crate::select::Selector;
use crate::shared::{Link, LogEntry, Shared, State};
use crate::watch::{self, Watch};
use crate::write::By;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client's way to the server.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) shared: Shared,
    pub(crate) connection: usize,
}

/// What the server says when nothing goes wrong.
enum Reply {
    Json(u16, Value),
    Watch(Box<Watch>),
}

impl tower_service::Service<Request<Body>> for Service {
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(answer(self.shared.clone(), self.connection, request))
    }
}

async fn answer(
    shared: Shared,
    connection: usize,
    request: Request<Body>,
) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await?;
    let content_type =
        parts.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let route = match route::parse(&parts.method, parts.uri.path(), parts.uri.query(), content_type) {
        Ok(route) => route,
        Err(error) => return Ok(json_response(error.code, &error.status())),
    };
    let body = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(_) if body.is_empty() => Value::Null,
        Err(error) => {
            let error = ApiError::bad_request(format!("the body is not JSON: {error}"));
            return Ok(json_response(error.code, &error.status()));
        }
    };
    // Frozen clients wait for ever; a fault can freeze this one.
    let effect = shared.change(|state| {
        match state.links[connection].link {
            Link::Up => {}
            Link::Frozen => return Effect { answer: Answer::Freeze, applied: false, delay: Duration::ZERO },
            Link::Cut => return Effect { answer: Answer::Disconnect, applied: false, delay: Duration::ZERO },
        }
        let subject = Subject {
            connection: &state.links[connection].name,
            verb: route.verb,
            plural: &route.kind.plural,
            name: route.name.as_deref().or_else(|| body["metadata"]["name"].as_str()),
        };
        let effect = state.plan.effect(&subject, &mut state.random);
        if effect.is_some_and(|effect| effect.answer == Answer::Freeze) {
            state.links[connection].link = Link::Frozen;
        }
        effect.unwrap_or(Effect { answer: Answer::Own, applied: true, delay: Duration::ZERO })
    });
    if effect.answer == Answer::Freeze {
        std::future::pending::<()>().await;
    }
    if !effect.delay.is_zero() {
        tokio::time::sleep(effect.delay).await;
    }
    let reply = shared.change(|state| {
        let carried = (effect.applied).then(|| carry_out(state, connection, &route, body.clone()));
        let own = carried.as_ref().map(|result| match result {
            Ok(Reply::Json(code, _)) => *code,
            Ok(Reply::Watch(_)) => 200,
            Err(error) => error.code,
        });
        let code = match effect.answer {
            Answer::Own => own,
            Answer::Status(code) => Some(code),
            Answer::Disconnect | Answer::Freeze => None,
        };
        let applied = carried.as_ref().is_some_and(Result::is_ok);
        let connection = state.links[connection].name.clone();
        state.log.push(LogEntry {
            connection,
            verb: route.verb,
            kind: route.kind.clone(),
            namespace: route.namespace.clone(),
            name: route.name.clone(),
            status: route.status,
            body,
            code,
            applied,
        });
        carried
    });
    match (effect.answer, reply) {
        (Answer::Status(code), _) => Ok(json_response(code, &ApiError::injected(code).status())),
        (Answer::Own, Some(Ok(Reply::Json(code, value)))) => Ok(json_response(code, &value)),
        (Answer::Own, Some(Ok(Reply::Watch(watch)))) => Ok(watch_response(shared, *watch)),
        (Answer::Own, Some(Err(error))) => Ok(json_response(error.code, &error.status())),
        _ => Err("the connection to the API server broke".into()),
    }
}

fn json_response(code: u16, value: &Value) -> Response<UnsyncBoxBody<Bytes, BoxError>> {
    let full = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    let mut response = Response::new(full.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn watch_response(shared: Shared, watch: Watch) -> Response<UnsyncBoxBody<Bytes, BoxError>> {
    let frames = watch::stream(shared, watch).map(|line| line.map(Frame::data).map_err(BoxError::from));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn carry_out(state: &mut State, connection: usize, route: &Route, body: Value) -> Result<Reply, ApiError> {
    let selector =
        || Selector::parse(route.param("labelSelector"), route.param("fieldSelector"), route.kind.built_in());
    let by = By {
        manager: route.param("fieldManager").unwrap_or_default().to_owned(),
        status: route.status,
        force: route.flag("force"),
    };
    let namespace = route.namespace.as_deref();
    let name = route.name.as_deref().unwrap_or_default();
    let store = &mut state.store;
    match route.verb {
        Verb::Get => {
            let key = store.key(&route.kind, namespace, name)?;
            Ok(Reply::Json(200, store.get(&key)?.object.clone()))
        }
        Verb::List => list(state, route, &selector()?),
        Verb::Watch => watch(state, connection, route, selector()?),
        Verb::Create => Ok(Reply::Json(201, store.create(&route.kind, namespace, body, &by)?)),
        Verb::Update => {
            let key = store.key(&route.kind, namespace, name)?;
            Ok(Reply::Json(200, store.replace(&key, body, &by)?))
        }
        Verb::Patch => {
            let key = store.key(&route.kind, namespace, name)?;
            Ok(Reply::Json(200, store.patch(&key, &body, &by)?))
        }
        Verb::Apply => {
            let key = store.key(&route.kind, namespace, name)?;
            let code = if store.get(&key).is_ok() { 200 } else { 201 };
            Ok(Reply::Json(code, store.apply(&key, body, &by)?))
        }
        Verb::Delete => {
            let key = store.key(&route.kind, namespace, name)?;
            let uid = store.get(&key)?.object["metadata"]["uid"].clone();
            let gone = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200,
                "details": {"name": name, "group": route.kind.group, "kind": route.kind.plural, "uid": uid},
            });
            Ok(Reply::Json(200, store.delete(&key, &body)?.unwrap_or(gone)))
        }
        Verb::DeleteCollection => {
            let selector = selector()?;
            let found: Vec<Value> =
                store.of_kind(&route.kind, namespace).filter(|object| selector.matches(object)).cloned().collect();
            for object in &found {
                let meta = &object["metadata"];
                let name = meta["name"].as_str().unwrap_or_default();
                let key = store.key(&route.kind, meta["namespace"].as_str(), name)?;
                store.delete(&key, &body)?;
            }
            Ok(Reply::Json(200, list_object(state, route, found, state.store.revision)))
        }
    }
}

fn list_object(state: &State, route: &Route, mut items: Vec<Value>, revision: u64) -> Value {
    // The real server leaves the type out of the items of built-in kinds.
    if route.kind.built_in() {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.remove("kind");
            item.remove("apiVersion");
        }
    }
    let prefix = if route.kind.group.is_empty() { String::new() } else { format!("{}/", route.kind.group) };
    let kind = state.store.names.get(&route.kind).map_or("Unknown", |(_, kind)| kind);
    json!({
        "apiVersion": format!("{prefix}{}", route.version),
        "kind": format!("{kind}List"),
        "metadata": {"resourceVersion": revision.to_string()},
        "items": items,
    })
}

fn list(state: &mut State, route: &Route, selector: &Selector) -> Result<Reply, ApiError> {
    let (revision, mut items) = match route.param("continue") {
        Some(token) => {
            let position = state.pages.iter().position(|(page, ..)| page == token).ok_or_else(ApiError::expired)?;
            let (_, revision, items) = state.pages.swap_remove(position);
            (revision, items)
        }
        None => {
            let revision = state.store.revision;
            let wanted = route.param("resourceVersion").and_then(|text| text.parse::<u64>().ok());
            if route.param("resourceVersionMatch") == Some("Exact") && wanted.is_some_and(|wanted| wanted < revision) {
                return Err(ApiError::expired());
            }
            let all = state.store.of_kind(&route.kind, route.namespace.as_deref());
            (revision, all.filter(|object| selector.matches(object)).cloned().collect())
        }
    };
    let limit = route.param("limit").and_then(|text| text.parse::<usize>().ok()).unwrap_or(usize::MAX).max(1);
    let rest = if items.len() > limit { items.split_off(limit) } else { Vec::new() };
    let left = rest.len();
    let mut list = list_object(state, route, items, revision);
    if left > 0 {
        let token = format!("page-{}", state.log.len());
        list["metadata"]["continue"] = json!(token);
        list["metadata"]["remainingItemCount"] = json!(left);
        state.pages.push((token, revision, rest));
    }
    Ok(Reply::Json(200, list))
}

fn watch(state: &State, connection: usize, route: &Route, selector: Selector) -> Result<Reply, ApiError> {
    let now = Instant::now();
    let revision = state.store.revision;
    let bookmarks = route.flag("allowWatchBookmarks");
    let from = route.param("resourceVersion").and_then(|text| text.parse::<u64>().ok()).filter(|from| *from > 0);
    let initial = route.flag("sendInitialEvents");
    let mut lines = Vec::new();
    if initial || from.is_none() {
        let all = state.store.of_kind(&route.kind, route.namespace.as_deref());
        let matching = all.filter(|object| selector.matches(object));
        lines.extend(matching.map(|object| json!({"type": "ADDED", "object": object})));
        if initial && bookmarks {
            lines.push(watch::bookmark(&state.store, &route.kind, revision, true));
        }
    }
    let seen = if initial { revision } else { from.unwrap_or(revision) };
    let timeout = route.param("timeoutSeconds").and_then(|text| text.parse::<u64>().ok());
    Ok(Reply::Watch(Box::new(Watch {
        connection,
        kind: route.kind.clone(),
        namespace: route.namespace.clone(),
        selector,
        seen,
        bookmarks,
        ends: timeout.map(|seconds| now + Duration::from_secs(seconds)),
        round: state.watch_round,
        lines,
        last_line: now,
        over: false,
    })))
}
