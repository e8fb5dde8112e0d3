"""Checks manifests without a cluster: against Kubernetes' schemas, against our own definitions, and against each other.

    manifests.py KUBERNETES CRDS EXAMPLES RENDERED

KUBERNETES is a version, the others are directories with YAML files; each file of RENDERED is one installation.
"""

import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

GROUP = "openebs.io"
FAULTS = []


def fault(where, what):
    FAULTS.append(f"{where}: {what}")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def closed(schema):
    """The schema with every field that it does not name refused: the API server would drop such a field silently."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items() if key not in ("format", "x-kubernetes-validations")}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        if schema.pop("nullable", False) and "type" in schema:
            schema["type"] = [schema["type"], "null"]
    elif isinstance(schema, list):
        schema = [closed(value) for value in schema]
    return schema


def own_schemas(crds):
    schemas = {}
    for crd in crds:
        (version,) = crd["spec"]["versions"]
        schema = closed(version["schema"]["openAPIV3Schema"])
        schema["properties"].update({"apiVersion": {}, "kind": {}, "metadata": {}})
        schemas[crd["spec"]["names"]["kind"]] = schema
    return schemas


def validate(where, document, version, schemas):
    name = f'{where}: {document["kind"]} {document["metadata"]["name"]}'
    try:
        if document["apiVersion"].split("/")[0] == GROUP:
            jsonschema.validate(document, schemas[document["kind"]])
        else:
            kubernetes_validate.validate(document, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        fault(name, f"{error.message} at {'/'.join(map(str, error.path))}")
    except (KeyError, kubernetes_validate.SchemaNotFoundError):
        fault(name, "a kind that nobody knows")
    config = (document["metadata"].get("annotations") or {}).get("cas.openebs.io/config")
    if config is not None:
        settings = yaml.safe_load(config)
        if not all(isinstance(setting, dict) and "name" in setting for setting in settings):
            fault(name, "cas.openebs.io/config is not a list of names and values")


def pod_of(document):
    return document["spec"]["template"] if document["kind"] in ("Deployment", "DaemonSet", "Job") else None


def check_pod(where, document, template, accounts):
    spec = template["spec"]
    account = spec.get("serviceAccountName")
    if accounts and account not in accounts:
        fault(where, f"the account {account} is not made")
    selector = document["spec"].get("selector", {}).get("matchLabels", {})
    if not selector.items() <= template["metadata"]["labels"].items():
        fault(where, "its selector does not select its own pods")
    for container in spec["containers"]:
        security = container.get("securityContext", {})
        if not security.get("readOnlyRootFilesystem"):
            fault(where, "its root file system can be written")
        if security.get("privileged"):
            if template["metadata"]["labels"].get("component") != "ndm":
                fault(where, "only the node disk manager may be privileged")
            continue
        least = security.get("capabilities") == {"drop": ["ALL"]} and security.get("allowPrivilegeEscalation") is False
        pod = spec.get("securityContext", {})
        if not (least and pod.get("runAsNonRoot") and pod.get("seccompProfile") == {"type": "RuntimeDefault"}):
            fault(where, "it has more rights than it needs")


def check_installation(where, all_documents, crds):
    """What must fit together in one installation."""
    by_kind = {}
    for document in all_documents:
        metadata = document["metadata"]
        names = by_kind.setdefault(document["kind"], {})
        key = metadata["name"]
        if key in names:
            fault(where, f'two objects {document["kind"]} {key}')
        names[key] = document
    plurals = {crd["spec"]["names"]["plural"]: crd["spec"]["scope"] for crd in crds}
    accounts = by_kind.get("ServiceAccount", {})
    for kind in ("Role", "ClusterRole"):
        for name, role in by_kind.get(kind, {}).items():
            for rule in role["rules"]:
                if any("*" in value for values in rule.values() for value in values):
                    fault(where, f"{kind} {name} has a wildcard")
                if not all(rule.get(key) for key in ("apiGroups", "resources", "verbs")):
                    fault(where, f"{kind} {name} has an empty rule")
                if rule["apiGroups"] != [GROUP]:
                    continue
                for resource in rule["resources"]:
                    scope = plurals.get(resource.split("/")[0])
                    if scope != ("Namespaced" if kind == "Role" else "Cluster"):
                        fault(where, f"{kind} {name} names {resource}, whose scope is {scope}")
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for name, binding in by_kind.get(kind, {}).items():
            reference = binding["roleRef"]
            if reference["name"] not in by_kind.get(reference["kind"], {}):
                fault(where, f'{kind} {name}: there is no {reference["kind"]} {reference["name"]}')
            for subject in binding["subjects"]:
                if accounts and subject["name"] not in accounts:
                    fault(where, f'{kind} {name}: there is no account {subject["name"]}')
    for name, role in by_kind.get("ClusterRole", {}).items():
        for rule in role["rules"]:
            if rule["resources"] == ["customresourcedefinitions"]:
                wanted = {crd["metadata"]["name"] for crd in crds}
                if set(rule.get("resourceNames", [])) != wanted:
                    fault(where, f"ClusterRole {name} does not name our definitions exactly")
    classes = by_kind.get("PriorityClass", {})
    for document in all_documents:
        template = pod_of(document)
        if template is None:
            continue
        name = f'{where}: {document["kind"]} {document["metadata"]["name"]}'
        check_pod(name, document, template, accounts)
        priority = template["spec"].get("priorityClassName", "system-")
        if not priority.startswith("system-") and priority not in classes:
            fault(name, f"there is no PriorityClass {priority}")


def main(version, crd_dir, example_dir, rendered_dir):
    crds = [document for path in sorted(pathlib.Path(crd_dir).glob("*.yaml")) for document in documents(path)]
    schemas = own_schemas(crds)
    count = 0
    for directory in (crd_dir, example_dir, rendered_dir):
        for path in sorted(pathlib.Path(directory).glob("*.yaml")):
            found = documents(path)
            if not found:
                fault(path.name, "there is nothing in it")
            for document in found:
                validate(path.name, document, version, schemas)
            count += len(found)
            if directory == rendered_dir:
                check_installation(path.name, found, crds)
    print("\n".join(FAULTS) or f"{count} manifests are right")
    return 1 if FAULTS or not count else 0


sys.exit(main(*sys.argv[1:]))
