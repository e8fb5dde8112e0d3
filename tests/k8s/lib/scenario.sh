# shellcheck shell=bash
# What every scenario sources first: `source "$K8S_LIB/scenario.sh"`. Gives it kubectl and helm, the node_*, service_* and
# image_* functions and the checks, and shows what the cluster looked like when the scenario fails.
set -euo pipefail
source "$K8S_LIB/common.sh"
source "$K8S_LIB/cluster.sh"
source "$K8S_LIB/check.sh"
load_environment "${K8S_STATE:?run scenarios by tests/k8s/run}"
PATH=$STATE/bin:$PATH
SCENARIO=$(basename "$0" .sh)
SCRATCH=$(mktemp -d "$STATE/scratch.XXXXXX")

show_cluster() {
  echo "---- the cluster when $SCENARIO failed ----"
  {
    kubectl get nodes,pods,pv,pvc -A -o wide
    kubectl get events -A --sort-by=.metadata.creationTimestamp | tail -n 25
  } 2>&1 | cut -c1-300
  echo "----"
}
scenario_ends() {
  local status=$?
  [ $status = 0 ] || show_cluster || true
  rm -rf "$SCRATCH"
  exit $status
}
trap scenario_ends EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
