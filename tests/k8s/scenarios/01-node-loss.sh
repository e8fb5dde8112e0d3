#!/usr/bin/env bash
# The harness itself: a node that loses its power, hangs or is cut off counts as lost, and comes back with its disk.
source "$K8S_LIB/scenario.sh"

readonly SPACE=node-loss
read -ra nodes <<<"$ALL_NODES"
lost=${NODES##* } # the last of the machines

# Two pods that any node but a slow one may run, and one on each node that keeps a file on the node's disk.
manifests() {
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: movable}
spec:
  replicas: 2
  selector: {matchLabels: {app: movable}}
  template:
    metadata: {labels: {app: movable}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {ballast.test/kind: machine}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: movable}}}
      containers: [{name: sleep, image: 'busybox:test', command: [sleep, '100000']}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: keeper}
spec:
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: keeper
        image: busybox:test
        command: [sh, -c, 'echo started >> /data/starts; sync; exec sleep 100000']
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, hostPath: {path: /var/node-loss, type: DirectoryOrCreate}}]
YAML
}

no_pod_of_the_deployment_on() { # node
  [ -z "$(kubectl -n "$SPACE" get pods -l app=movable --field-selector "spec.nodeName=$1" -o json |
    jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .metadata.name')" ]
}
deployment_is_whole_without() { # node
  no_pod_of_the_deployment_on "$1" && pods_are_ready "$SPACE" app=movable 2
}
starts() { node_exec "$1" grep -c started /var/node-loss/starts; } # node
started_again() { [ "$(starts "$1")" -gt "$2" ]; }                 # node count
keepers_are_ready() { pods_are_ready "$SPACE" app=keeper "${#nodes[@]}"; }
api_server_is_silent() { ! kubectl get --raw /readyz; }

power_cut() { # node
  local before
  before=$(starts "$1")
  check "the power of $1 is cut" node_stop "$1"
  check "nothing of it runs" machine_is_gone "$1"
  eventually 90 "$1 counts as lost" node_is_lost "$1"
  eventually 90 "its pods run elsewhere" deployment_is_whole_without "$1"
  check "$1 boots and is ready" node_start "$1"
  eventually 90 "$1 has its disk and its pods run again" started_again "$1" "$before"
  eventually 60 "every node has its pod" keepers_are_ready
}

check "there is a namespace for it" fresh_namespace "$SPACE"
manifests | kubectl -n "$SPACE" apply -f - >/dev/null
eventually 90 "every node has its pod at first" keepers_are_ready
eventually 90 "the deployment is there" pods_are_ready "$SPACE" app=movable 2

power_cut "$lost"

check "$lost hangs" node_freeze "$lost"
eventually 90 "$lost counts as lost" node_is_lost "$lost"
check "it goes on" node_thaw "$lost"
eventually 90 "$lost is ready again" node_is_ready "$lost"

check "$lost is cut off" node_cut "$lost"
eventually 90 "$lost, cut off, counts as lost" node_is_lost "$lost"
check "its cable is mended" node_mend "$lost"
eventually 90 "$lost, mended, is ready again" node_is_ready "$lost"

if [ -n "$UML_NODES" ]; then power_cut uml1; else skipped "a power cut of uml1" "no User-Mode Linux node"; fi

check "the API server ends" service_stop control kube-apiserver
eventually 10 "it does not answer" api_server_is_silent
check "it may run again" service_start control kube-apiserver
eventually 60 "it answers again" control_is_ready
eventually 60 "every node has its pod at last" keepers_are_ready

kubectl delete namespace "$SPACE" --wait=false >/dev/null
eventually 120 "the namespace goes away" namespace_is_gone "$SPACE"
