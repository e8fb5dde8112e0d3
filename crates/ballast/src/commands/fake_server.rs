//! An API server for the tests of commands: answers by method and path, and notes what it was asked.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The calls so far: method, path, query.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<Vec<[String; 3]>>>);

impl Calls {
    /// The paths of those with this method.
    pub(crate) fn of(&self, method: &str) -> Vec<String> {
        self.part(1, method)
    }

    /// The queries of those with this method.
    pub(crate) fn queries(&self, method: &str) -> Vec<String> {
        self.part(2, method)
    }

    fn part(&self, part: usize, method: &str) -> Vec<String> {
        let calls = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        calls.iter().filter(|call| call[0] == method).map(|call| call[part].clone()).collect()
    }
}

/// A client whose server answers with what `answer` gives for a method and a path, and "not found" without.
pub(crate) fn server(answer: impl Fn(&str, &str) -> Option<Value> + Send + Sync + 'static) -> (Client, Calls) {
    let calls = Calls::default();
    let (noted, answer) = (calls.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let call = [method.clone(), path.clone(), request.uri().query().unwrap_or_default().to_owned()];
        noted.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(call);
        let found = answer(&method, &path);
        let code = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let body = found.unwrap_or_else(|| {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": format!("{path} not found"), "code": 404})
        });
        let mut response = Response::new(Body::from(body.to_string().into_bytes()));
        *response.status_mut() = code;
        async move { Ok::<_, Infallible>(response) }
    });
    (Client::new(service, "openebs"), calls)
}
