#!/usr/bin/env bash
# Upgrade and maintenance under a pod that writes all the while: helm upgrade restarts one pool after the other, kubectl drain
# takes one node and is refused a second one, and uninstalling is refused while there is data.
source "$K8S_LIB/scenario.sh"
source "$K8S_LIB/ballast.sh"

if [ -z "$UML_NODES" ]; then
  skipped "an upgrade under a pod that writes" "no User-Mode Linux node"
  exit
fi

readonly NEXT=next
objects() {
  pools_and_class upgrade 3 3 "{name: TargetNodeSelector, value: 'ballast.test/kind: machine'}"
  echo ---
  claim data upgrade 256Mi
  mounting_pod writer data
}
# The same program under another tag, as a registry would give it to a node.
next_image() {
  local node
  for node in $ALL_NODES; do
    node_exec "$node" ctr --address /run/containerd/containerd.sock --namespace k8s.io \
      image tag --force docker.io/library/ballast:test "docker.io/library/ballast:$NEXT" || return 1
  done
}

volume() { kubectl get pvc data -o 'jsonpath={.spec.volumeName}'; }
volume_is() { [ "$(kubectl -n "$SPACE" get cstorvolume "$volume" -o 'jsonpath={.status.phase}')" = "$1" ]; }

# ---- who writes ----

# One number after the other at the end of a file, each made durable before the next. Prints each with the time.
write_lines() {
  # shellcheck disable=SC2016 # the pod's shell expands it
  kubectl exec writer -- sh -c 'n=1; while [ ! -e /tmp/enough ]; do
    echo $n >>/data/lines && sync || exit 1
    echo "$n $(date +%s)"; n=$((n + 1)); sleep 0.1; done' >"$SCRATCH/written" 2>"$SCRATCH/refused"
}
written() { wc -l <"$SCRATCH/written"; }
more_lines_than() { [ "$(written)" -gt "$1" ] || { echo "still $1 lines"; return 1; }; }
lines_go_on() { # seconds name
  local at
  at=$(written)
  eventually "$1" "$2" more_lines_than $((at + 2))
}
longest_pause() { # first line to look at: whole seconds between two lines
  awk -v from="$1" 'last && $1 >= from && $2 - last > most {most = $2 - last} {last = $2} END {print most + 0}' "$SCRATCH/written"
}
every_line_is_there() {
  kubectl exec writer -- cat /data/lines >"$SCRATCH/lines"
  cut -d' ' -f1 "$SCRATCH/written" | cmp - "$SCRATCH/lines"
}
writer_was_never_disturbed() {
  prints 0 kubectl get pod writer -o 'jsonpath={.status.containerStatuses[0].restartCount}' || return 1
  kubectl exec writer -- grep ' /data ext4 rw' /proc/mounts || return 1
  ! node_exec uml1 dmesg | grep -iE 'remounting filesystem read-only|ext4-fs.*error|I/O error|aborted journal'
}

# ---- who watches the pools ----

# Notes how many pool pods are ready, again and again: two that are away at once would be seen.
watch_pools() {
  while :; do
    kubectl -n "$SPACE" get pods -l app=cstor-pool -o json |
      jq '[.items[] | select(any(.status.conditions[]?; .type == "Ready" and .status == "True"))] | length'
    sleep 0.5
  done >>"$SCRATCH/ready" 2>/dev/null
}
fewest_pools() { sort -n "$SCRATCH/ready" | head -n 1; }

all_run() { # tag selector count: pods of that image, all ready
  pods_are_ready "$SPACE" "$2" "$3" || return 1
  kubectl -n "$SPACE" get pods -l "$2" -o json | jq -e --arg tag "$1" '
    [.items[] | select(.metadata.deletionTimestamp == null) | .spec.containers[0].image | endswith(":" + $tag)] | all' >/dev/null
}
pool_on() { kubectl get cstorpools -l "kubernetes.io/hostname=$1" -o 'jsonpath={.items[0].metadata.name}'; }
pool_pods_on() { # node: how many
  kubectl -n "$SPACE" get pods -l app=cstor-pool --field-selector "spec.nodeName=$1" -o name | wc -l
}
drain() { # node seconds
  kubectl drain "$1" --ignore-daemonsets --delete-emptydir-data --timeout="${2}s"
}
is_refused() { # text command...: the command fails, and says that
  local text=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf 'it succeeded:\n%s\n' "$output"
    return 1
  fi
  grep -iF -- "$text" <<<"$output" || { printf 'said: %s\n' "$output"; return 1; }
}

# ---- the checks ----

check "the chart installs" install_ballast
eventually 60 "a device on each node" devices_are_there 3
objects >"$SCRATCH/objects.yaml"
check "pools, class, claim and pod are accepted" kubectl apply --validate=strict -f "$SCRATCH/objects.yaml"
eventually 180 "the pod mounts the volume" pod_is_ready default writer
volume=$(volume)
eventually 60 "the volume is healthy" volume_is Healthy
eventually 30 "and every pool" pools_are_healthy 3
check "another version's image" next_image
: >"$SCRATCH/written"
write_lines &
writer=$!
lines_go_on 60 "lines are written"

watch_pools &
watcher=$!
first=$(written)
check "the chart is upgraded" install_ballast --set image.tag=$NEXT
eventually 300 "every pool runs the new version" all_run $NEXT app=cstor-pool 3
eventually 120 "so does the target" all_run $NEXT openebs.io/target=cstor-target 1
eventually 60 "the volume is healthy" volume_is Healthy
lines_go_on 60 "lines are written"
kill $watcher
wait $watcher 2>/dev/null || true
expect "one pool at a time was away" 2 fewest_pools
echo "the longest pause was $(longest_pause "$first") s"

first=$(written)
check "a node is drained" drain node1 180
expect "its pool is away" 0 pool_pods_on node1
lines_go_on 60 "lines are written"
check "a second node cannot be drained meanwhile" is_refused "disruption budget" drain node2 15
expect "its pool runs" 1 pool_pods_on node2
check "the first comes back" kubectl uncordon node1
eventually 120 "every pool is healthy" pools_are_healthy 3
eventually 60 "the volume is healthy" volume_is Healthy
check "now the second is drained" drain node2 180
lines_go_on 60 "lines are written"
check "it comes back" kubectl uncordon node2
eventually 120 "every pool is healthy" pools_are_healthy 3
eventually 60 "the volume is healthy" volume_is Healthy
echo "the longest pause was $(longest_pause "$first") s"

check "uninstalling is refused, it names the claim" is_refused default/data uninstall_ballast
lines_go_on 30 "lines are written"
check "the writer is told to end" kubectl exec writer -- touch /tmp/enough
wait "$writer" || echo "the writer ended with status $?" >>"$SCRATCH/refused"
expect "no write was refused" '' cat "$SCRATCH/refused"
check "every line is there" every_line_is_there
check "the pod was not restarted, its file system never read-only" writer_was_never_disturbed
echo "$(written) lines, the longest pause in all was $(longest_pause 1) s"

check "the pod goes" kubectl delete pod writer --wait --timeout=60s
check "its claim goes" kubectl delete pvc data --wait --timeout=60s
eventually 60 "nothing is left of the volume" nothing_is_left_of_volumes
check "uninstalling is refused, it names the pools" is_refused storagepoolclaim uninstall_ballast
check "class and pools go" kubectl delete storageclass/upgrade storagepoolclaim/upgrade --wait --timeout=120s
eventually 90 "their devices are wiped and free" devices_are_free
check "uninstall" uninstall_ballast
