use std::collections::BTreeSet;

use serde_json::json;

use super::super::fake_server::server;
use super::*;

const AGAIN: &str = "write them again: cargo run --release -p ballast -- crds --dir charts/ballast/crds";

#[test]
fn the_charts_files_are_those_of_the_code() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/ballast/crds");
    let wanted = documents().unwrap();
    let there: BTreeSet<_> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, wanted.keys().cloned().collect(), "files of charts/ballast/crds: {AGAIN}");
    for (name, text) in wanted {
        let file = std::fs::read_to_string(dir.join(&name)).unwrap();
        assert!(file == text, "charts/ballast/crds/{name} differs from the code: {AGAIN}");
    }
}

#[test]
fn what_is_written_can_be_read_back() {
    for (text, crd) in documents().unwrap().into_values().zip({
        let mut all = definitions().unwrap();
        all.sort_by_key(|crd| crd.spec.names.plural.clone());
        all
    }) {
        let read: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, crd);
    }
}

async fn apply_all(client: &Client, take_over: bool) -> Result<(), CrdsError> {
    apply(client, &definitions().unwrap(), take_over).await
}

#[test]
fn a_kind_says_what_it_is_and_has_only_formats_that_kubernetes_knows() {
    for crd in definitions().unwrap() {
        let value = serde_json::to_value(&crd).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert!(schema["description"].as_str().is_some_and(|text| !text.contains("derived")), "{schema}");
        assert!(!schema.to_string().contains("\"format\":\"uint"), "{schema}");
    }
    // A field may have that name.
    let mut schema = json!({"format": "uint64", "properties": {"format": {"format": "int32"}}});
    drop_unsigned_formats(&mut schema);
    assert_eq!(schema, json!({"properties": {"format": {"format": "int32"}}}));
}

#[test]
fn files_are_written_and_a_wrong_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), k8s::crds().len());
    let error = write(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}

/// The server's copy of a definition, asked for by `path`.
fn stored(path: &str, label: &str, established: &str) -> Option<Value> {
    let name = path.rsplit('/').next()?;
    let mut crd = definitions().unwrap().into_iter().find(|crd| crd.name_any() == name)?;
    crd.labels_mut().insert(PART_OF.0.to_owned(), label.to_owned());
    let mut crd = serde_json::to_value(crd).ok()?;
    crd["status"] = json!({"conditions": [{"type": "Established", "status": established}]});
    Some(crd)
}

#[tokio::test]
async fn installed_where_nothing_is() {
    let (client, calls) = {
        let applied = std::sync::Mutex::new(BTreeSet::new());
        server(move |method, path| {
            let mut applied = applied.lock().unwrap();
            if method == "PATCH" {
                applied.insert(path.to_owned());
            }
            if applied.contains(path) { stored(path, "ballast", "True") } else { None }
        })
    };
    apply_all(&client, false).await.unwrap();
    assert_eq!(calls.of("PATCH").len(), k8s::crds().len());
}

#[tokio::test]
async fn ours_are_brought_up_to_date_and_anybody_elses_are_left_alone() {
    let (client, calls) = server(|_, path| stored(path, "ballast", "True"));
    apply_all(&client, false).await.unwrap();
    assert_eq!(calls.of("PATCH").len(), k8s::crds().len());
    let as_helm = |query: &String| query.contains("fieldManager=helm") && query.contains("force=true");
    assert!(calls.queries("PATCH").iter().all(as_helm), "{:?}", calls.queries("PATCH"));

    let foreign = |path: &str| if path.ends_with("cstorpools.openebs.io") { "other" } else { "ballast" };
    let (client, calls) = server(move |_, path| stored(path, foreign(path), "True"));
    let error = apply_all(&client, false).await.unwrap_err();
    assert!(matches!(&error, CrdsError::Foreign(names) if names == "cstorpools.openebs.io"), "{error}");
    assert_eq!(calls.of("PATCH"), [""; 0]);
    apply_all(&client, true).await.unwrap();
    assert_eq!(calls.of("PATCH").len(), k8s::crds().len());
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_not_served_is_an_error() {
    let (client, _) = server(|_, path| stored(path, "ballast", "False"));
    let error = apply_all(&client, false).await.unwrap_err();
    assert!(matches!(&error, CrdsError::NotServed(name) if name.ends_with(".openebs.io")), "{error}");
}
