#!/usr/bin/env bash
# A real API server accepts every manifest of the chart, rendered with all sets of values, and every example, as strictly as it
# can; helm finds nothing to object to. Nothing is installed but the definitions.
source "$K8S_LIB/scenario.sh"

readonly CHART=$K8S_DIR/../../charts/ballast EXAMPLES=$K8S_DIR/../../examples
readonly RELEASE_SPACE=openebs

server_accepts() { kubectl -n $RELEASE_SPACE apply --dry-run=server --validate=strict -f "$1"; } # file or directory
render() { # values file, result
  helm template demo "$CHART" --namespace $RELEASE_SPACE --values "$1" >"$2"
}
# helm itself sends it to the server, hooks and all, and looks for objects that are another release's.
helm_would_install() { # values file
  helm install demo "$CHART" --namespace $RELEASE_SPACE --values "$1" --dry-run=server
}
server_refuses() { # words file
  local output
  if output=$(server_accepts "$2" 2>&1); then echo "accepted: $output"; return 1; fi
  grep -qF -- "$1" <<<"$output" || { echo "refused, but without '$1': $output"; return 1; }
}
definitions_are_established() {
  local file
  for file in "$CHART"/crds/*.yaml; do
    kubectl wait --for=condition=Established --timeout=10s -f "$file" || return 1
  done
}

check "the definitions are accepted" kubectl apply --server-side --validate=strict -f "$CHART/crds"
check "they are established" definitions_are_established
kubectl create namespace $RELEASE_SPACE >/dev/null 2>&1 || true

for values in "$CHART"/ci/*-values.yaml; do
  name=$(basename "$values" -values.yaml)
  check "helm lint, $name" helm lint --strict "$CHART" --namespace $RELEASE_SPACE --values "$values"
  check "helm template, $name" render "$values" "$SCRATCH/$name.yaml"
  check "the API server accepts the chart, $name" server_accepts "$SCRATCH/$name.yaml"
  check "helm would install it, $name" helm_would_install "$values"
done
for example in "$EXAMPLES"/*.yaml; do
  check "the API server accepts $(basename "$example")" server_accepts "$example"
done

# The checks above can fail.
sed 's/maxPools:/maxPool:/' "$EXAMPLES/storagepoolclaim-sparse.yaml" >"$SCRATCH/wrong.yaml"
check "a misspelt field of a claim is refused" server_refuses 'unknown field "spec.maxPool"' "$SCRATCH/wrong.yaml"
sed 's/serviceAccountName:/serviceAccount_Name:/' "$SCRATCH/default.yaml" >"$SCRATCH/wrong.yaml"
check "a misspelt field of the chart is refused" server_refuses 'unknown field "spec.template.spec.serviceAccount_Name"' "$SCRATCH/wrong.yaml"

check "the definitions go" kubectl delete -f "$CHART/crds" --timeout=60s
kubectl delete namespace $RELEASE_SPACE --wait=false >/dev/null
eventually 60 "the namespace goes away" namespace_is_gone $RELEASE_SPACE
