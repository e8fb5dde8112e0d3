#!/usr/bin/env bash
# The operator dies again and again, at moments that nobody chose, while volumes are made, deleted, scaled and moved. At the
# end everything is as it was wished, data included, and after deleting all nothing is left.
#
#   OPERATOR_KILLS (30), KILL_SEED (random)
source "$K8S_LIB/scenario.sh"
source "$K8S_LIB/ballast.sh"

readonly KILLS=${OPERATOR_KILLS:-30} SEED=${KILL_SEED:-$((RANDOM * 32768 + RANDOM))}
readonly MOST_CLAIMS=6 LEASE=ballast-operator OPERATOR=app.kubernetes.io/component=operator
if [ -z "$UML_NODES" ]; then
  skipped "kills of the operator" "no User-Mode Linux node: there must be a fourth pool to move to, and a kernel that mounts"
  exit
fi
made=0
# The same seed draws the same numbers. What they hit also depends on how quick the cluster is.
RANDOM=$SEED
echo "seed $SEED (again: KILL_SEED=$SEED OPERATOR_KILLS=$KILLS)"

# ---- wishes ----

# Volumes that a wish may be about: their names.
volumes() { kubectl -n "$SPACE" get cstorvolumes -o json | jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .metadata.name'; }
one_of() { # words: one of them, or nothing; in `chosen`, because a subshell has random numbers of its own
  chosen=''
  [ $# -gt 0 ] || return 0
  local which=$((RANDOM % $# + 1))
  chosen=${!which}
}
a_claim_more() {
  made=$((made + 1))
  claim "kills-$made" kills 64Mi | kubectl apply -f - >/dev/null
  wished="a claim more"
}
a_claim_less() {
  # shellcheck disable=SC2046
  one_of $(kubectl get pvc -o name | grep kills-)
  [ -n "$chosen" ] || return 0
  kubectl delete "$chosen" --wait=false --ignore-not-found >/dev/null
  wished="$chosen deleted"
}
other_number_of_replicas() {
  local number=$((RANDOM % 3 + 1))
  # shellcheck disable=SC2046
  one_of $(volumes)
  [ -n "$chosen" ] || return 0
  kubectl -n "$SPACE" patch cstorvolume "$chosen" --type merge -p "{\"spec\":{\"replicationFactor\":$number}}" >/dev/null ||
    { wished="$number replicas of $chosen, which is gone"; return 0; }
  wished="$number replicas of $chosen"
}
a_replica_moves() {
  # shellcheck disable=SC2046
  one_of $(kubectl -n "$SPACE" get cstorvolumereplicas -o name)
  [ -n "$chosen" ] || return 0
  kubectl -n "$SPACE" delete "$chosen" --wait=false --ignore-not-found >/dev/null
  wished="$chosen moves"
}
wish() {
  local claims
  claims=$(kubectl get pvc -o name | grep -c kills- || true)
  wished='nothing'
  case $((RANDOM % 10)) in
    [0-2]) if [ "$claims" -lt $MOST_CLAIMS ]; then a_claim_more; else a_claim_less; fi ;;
    3) a_claim_less ;;
    [4-6]) other_number_of_replicas ;;
    *) a_replica_moves ;;
  esac
}

# ---- kills ----

leader() { kubectl -n "$SPACE" get lease $LEASE -o 'jsonpath={.spec.holderIdentity}'; }
# One operator runs, and it is the one that acts.
an_operator_leads() {
  local pod
  pod=$(pod_of $OPERATOR) || return 1
  [ "$(leader)" = "$pod" ] || { echo "pod $pod, leader $(leader)"; return 1; }
  pod_is_ready "$SPACE" "$pod"
}
sleep_random() { # up to so many milliseconds
  local ms=$((RANDOM % $1))
  sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
}
restarts() { kubectl -n "$SPACE" get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }
# The status may still name a container that has ended already.
kill_operators_process() { pod=$(pod_of $OPERATOR) && kill_process_of "$pod"; }
# Kubernetes makes a container that ends often wait, longer each time; so one that was restarted gets a new pod.
kill_operator() {
  local pod
  retry 30 kill_operators_process || return 1
  if [ "$(restarts "$pod")" = 0 ] && [ $((RANDOM % 3)) != 0 ]; then
    killed="process"
    return
  fi
  kubectl -n "$SPACE" delete pod "$pod" --grace-period=0 --force >/dev/null 2>&1
  killed="pod, its lease runs out"
  # Waiting for the lease of one that is dead takes 15 s, in which there is nothing to interrupt: done only now and then.
  if [ $((RANDOM % 5)) != 0 ]; then
    kubectl -n "$SPACE" delete lease $LEASE --ignore-not-found >/dev/null
    killed="pod"
  fi
}
kill_again_and_again() {
  local round more wishes
  for ((round = 1; round <= KILLS; round++)); do
    retry 90 an_operator_leads || { echo "before kill $round no operator leads: $(an_operator_leads)"; return 1; }
    wishes=''
    for ((more = RANDOM % 3; more >= 0; more--)); do wish || return 1; wishes+="${wishes:+; }$wished"; done
    # Short moments are the likely ones to hit something half done.
    sleep_random $((RANDOM % 4 == 0 ? 6000 : 1500))
    kill_operator || return 1
    echo "  kill $round ($killed) after: $wishes"
  done
}

# ---- the end ----

every_claim_is_bound() { kubectl get pvc -o json | jq -e 'all(.items[]; .status.phase == "Bound")' >/dev/null; }
# Healthy, with as many replicas as wished, each healthy, none on its way out, no two in one pool; as many volumes as claims.
everything_is_as_wished() {
  local volumes replicas wrong
  volumes=$(kubectl -n "$SPACE" get cstorvolumes -o json) replicas=$(kubectl -n "$SPACE" get cstorvolumereplicas -o json)
  wrong=$(jq -rn --argjson volumes "$volumes" --argjson replicas "$replicas" '
    ($replicas.items | group_by(.metadata.labels["cstorvolume.openebs.io/name"])
      | map({(.[0].metadata.labels["cstorvolume.openebs.io/name"]): .}) | add // {}) as $of
    | ($volumes.items[] | .metadata.name as $name | ($of[$name] // []) as $own
      | select(.metadata.deletionTimestamp != null or .status.phase != "Healthy" or ($own | length) != .spec.replicationFactor
          or any($own[]; .metadata.deletionTimestamp != null or .status.phase != "Healthy")
          or ([$own[].metadata.labels["cstorpool.openebs.io/name"]] | unique | length) != ($own | length))
      | "\($name): \(.status.phase) \(.status.message // ""), wanted \(.spec.replicationFactor): \([$own[] | .metadata.name[-4:] + " " + (.status.phase // "")] | join(", "))"),
      ($of | keys[] | select(. as $name | all($volumes.items[]; .metadata.name != $name)) | "replicas of \(.), which is gone")')
  [ -z "$wrong" ] || { echo "$wrong"; return 1; }
  [ "$(jq '.items | length' <<<"$volumes")" = "$(kubectl get pvc -o name | wc -l)" ] || { echo "there are more or fewer volumes than claims"; return 1; }
}
# What the pools hold is what the objects say, no replica more.
pools_hold_what_the_objects_say() {
  local wanted got
  wanted=$(kubectl -n "$SPACE" get cstorvolumereplicas -o json | jq -c '[.items[].metadata.labels["cstorpool.openebs.io/name"]] | group_by(.) | map({(.[0]): length}) | add // {} | to_entries | sort')
  got=$(kubectl get cstorpools -o json | jq -c '[.items[] | select(.status.replicas > 0) | {key: .metadata.name, value: .status.replicas}] | sort')
  [ "$wanted" = "$got" ] || { printf 'objects: %s\npools:   %s\n' "$wanted" "$got"; return 1; }
}

data_is_written() {
  kubectl exec witness -- sh -c 'dd if=/dev/urandom of=/data/file bs=1M count=20 2>/dev/null && md5sum /data/file > /data/sum && sync'
}
data_is_read() { # from the replicas, not from the guest's memory
  node_exec uml1 sh -c 'echo 3 > /proc/sys/vm/drop_caches' && kubectl exec witness -- md5sum -c /data/sum
}

# ---- the checks ----

check "the chart installs" install_ballast --set "operator.nodeSelector.ballast\.test/kind=machine"
eventually 60 "a device on each node" devices_are_there 4
pools_and_class kills 4 3 "{name: TargetNodeSelector, value: 'ballast.test/kind: machine'}" >"$SCRATCH/objects.yaml"
check "pools and class are accepted" kubectl apply --validate=strict -f "$SCRATCH/objects.yaml"
eventually 120 "four pools are healthy" pools_are_healthy 4
check "the pools are empty" pools_are_empty
before=$(pools_allocate)
{ claim kept-data kills 64Mi; mounting_pod witness kept-data; } >"$SCRATCH/witness.yaml"
kubectl apply -f "$SCRATCH/witness.yaml" >/dev/null
eventually 120 "a pod mounts a volume" pod_is_ready default witness
check "data is written" data_is_written
eventually 60 "an operator leads" an_operator_leads

begun=$(date +%s%N)
kill_again_and_again
verdict PASS "it was killed $KILLS times" "$(since "$begun") s"
begun=$(date +%s%N)
eventually 60 "an operator leads" an_operator_leads
eventually 60 "every claim is bound" every_claim_is_bound
eventually 180 "everything is as it was wished" everything_is_as_wished
eventually 30 "the pools hold what the objects say" pools_hold_what_the_objects_say
eventually 30 "the pools are healthy" pools_are_healthy 4
echo "all this was so $(since "$begun") s after the last kill"
# What a dead operator wrote last is not what counts.
sleep 10
check "everything is still as it was wished" everything_is_as_wished
check "the data is there" data_is_read

check "the pod goes" kubectl delete pod witness --wait --timeout=60s
check "every claim goes" kubectl delete pvc --all --wait --timeout=120s
eventually 120 "nothing is left of the volumes" nothing_is_left_of_volumes
eventually 60 "the pools are empty" pools_are_empty
eventually 30 "and as many bytes are allocated as before" pools_allocate_only "$before"
check "class and pools go" kubectl delete storageclass/kills storagepoolclaim/kills --wait --timeout=120s
eventually 90 "their devices are wiped and free" devices_are_free
check "uninstall" uninstall_ballast
