#!/usr/bin/env bash
# A hundred claims made at once are bound in time, and it is said who took that time. A hundred deleted leave no object and no
# block.
#
#   CLAIMS (100), CLAIM_REPLICAS (3), BOUND_WITHIN (120 seconds)
source "$K8S_LIB/scenario.sh"
source "$K8S_LIB/ballast.sh"
source "$K8S_LIB/cpu.sh"

readonly CLAIMS=${CLAIMS:-100} CLAIM_REPLICAS=${CLAIM_REPLICAS:-3} BOUND_WITHIN=${BOUND_WITHIN:-120}

objects() { pools_and_class hundred 3 "$CLAIM_REPLICAS" "{name: TargetNodeSelector, value: 'ballast.test/kind: machine'}"; }
claims() {
  local number
  for ((number = 1; number <= CLAIMS; number++)); do claim "claim-$number" hundred 64Mi; done
}
# By a watch: asking again and again would be a load of its own.
all_are_bound() { kubectl wait --for='jsonpath={.status.phase}=Bound' pvc --all --timeout="${BOUND_WITHIN}s"; }
volumes_are_healthy() {
  kubectl -n "$SPACE" get cstorvolumes -o json | jq -e --argjson count "$CLAIMS" \
    '[.items[].status.phase] | length == $count and all(. == "Healthy")' >/dev/null ||
    { kubectl -n "$SPACE" get cstorvolumes -o json | jq -c '[.items[].status.phase] | group_by(.) | map({(.[0]): length})'; return 1; }
}
each_volume_has_its_own() { # portal and name: no two are the same
  kubectl get pv -o json | jq -e --argjson count "$CLAIMS" '
    ([.items[].spec.iscsi.targetPortal] | unique | length) == $count and ([.items[].spec.iscsi.iqn] | unique | length) == $count' >/dev/null
}
each_claim_has_events() {
  local told
  told=$(kubectl get events -o json | jq '[.items[] | select(.reason == "ProvisioningSucceeded") | .involvedObject.name] | unique | length')
  [ "$told" -ge "$CLAIMS" ] || { echo "$told of $CLAIMS"; return 1; }
}
data_is_written() { kubectl exec writer -- sh -c 'dd if=/dev/urandom of=/data/file bs=1M count=20 2>/dev/null && sync'; }
each_pool_allocates() { # at least so many MiB
  kubectl get cstorpools -o json | jq -e --argjson least "$1" \
    'all(.items[].status.capacity.used; (rtrimstr("M") | tonumber) >= $least)' >/dev/null || { pools_allocate; return 1; }
}
targets_are_ready() { pods_are_ready "$SPACE" openebs.io/target=cstor-target "$CLAIMS"; }

nothing_was_restarted() {
  local restarted
  restarted=$(kubectl -n "$SPACE" get pods -o json | jq -r '.items[] | select(any(.status.containerStatuses[]?; .restartCount > 0)) | .metadata.name')
  [ -z "$restarted" ] || { echo "restarted: $restarted"; return 1; }
}

# Where a claim's time goes, from what the API server noted about its objects, in whole seconds.
where_the_time_went() {
  {
    kubectl get pvc -o json --show-managed-fields
    kubectl -n "$SPACE" get cstorvolumes -o json
    kubectl get pv -o json
  } | jq -rs '
    def seconds: fromdateiso8601;
    (.[1].items | map({(.metadata.name): (.metadata.creationTimestamp | seconds)}) | add) as $volumes
    | (.[2].items | map({(.metadata.name): (.metadata.creationTimestamp | seconds)}) | add) as $persistent
    | [.[0].items[] | {
        claim: (.metadata.creationTimestamp | seconds), volume: $volumes[.spec.volumeName], pv: $persistent[.spec.volumeName],
        bound: ([.metadata.managedFields[] | select(.manager == "kube-controller-manager" and .subresource == "status") | .time | seconds] | max)
      }]
    | def mean(f): (map(f) | add / length * 10 | round / 10 | tostring) + " s";
      def most(f): (map(f) | max | tostring) + " s";
      "  claim -> CStorVolume       (provisioner)               mean \(mean(.volume - .claim)), most \(most(.volume - .claim))",
      "  -> PersistentVolume        (operator, pools)           mean \(mean(.pv - .volume)), most \(most(.pv - .volume))",
      "  -> Bound                   (Kubernetes)                mean \(mean(.bound - .pv)), most \(most(.bound - .pv))",
      "  in all                                                 mean \(mean(.bound - .claim)), most \(most(.bound - .claim))"'
}

check "the chart installs" install_ballast
eventually 60 "a device on each node" devices_are_there 3
objects >"$SCRATCH/objects.yaml"
check "pools and class are accepted" kubectl apply --validate=strict -f "$SCRATCH/objects.yaml"
eventually 120 "three pools are healthy" pools_are_healthy 3
check "the pools are empty" pools_are_empty
before=$(pools_allocate)
echo "allocated before: $before"

claims >"$SCRATCH/claims.yaml"
cpu_note "$SCRATCH/cpu0"
begun=$(date +%s%N)
kubectl apply -f "$SCRATCH/claims.yaml" >/dev/null
echo "$CLAIMS claims were accepted after $(since "$begun") s"
check "all are bound within $BOUND_WITHIN s" all_are_bound
echo "$CLAIMS claims of $CLAIM_REPLICAS replicas were bound $(since "$begun") s after the first was sent. Of this:"
cpu_note "$SCRATCH/cpu1"
where_the_time_went
cpu_table "$SCRATCH/cpu0" "$SCRATCH/cpu1"
check "each has a portal and a name of its own" each_volume_has_its_own
eventually 30 "each claim's events tell how it got its volume" each_claim_has_events
eventually 420 "the $CLAIMS targets are ready" targets_are_ready
echo "the last target was ready $(since "$begun") s after the first claim was sent. Of this:"
cpu_note "$SCRATCH/cpu2"
cpu_table "$SCRATCH/cpu0" "$SCRATCH/cpu2"
eventually 60 "every volume is healthy" volumes_are_healthy
eventually 30 "and every pool" pools_are_healthy 3
cpu_note "$SCRATCH/cpu3"
sleep 20
cpu_note "$SCRATCH/cpu4"
echo "20 s without anything to do:"
cpu_table "$SCRATCH/cpu3" "$SCRATCH/cpu4"
if [ "$CLAIM_REPLICAS" = 3 ] && [ -n "$UML_NODES" ]; then
  mounting_pod writer claim-1 >"$SCRATCH/writer.yaml"
  kubectl apply -f "$SCRATCH/writer.yaml" >/dev/null
  eventually 120 "a pod mounts one of them" pod_is_ready default writer
  check "data is written to it" data_is_written
  eventually 30 "every pool has allocated its blocks" each_pool_allocates 20
  check "the pod goes" kubectl delete pod writer --wait --timeout=60s
else
  skipped "blocks are allocated and freed" "needs three replicas and a User-Mode Linux node"
fi
echo "allocated: $(pools_allocate)"

begun=$(date +%s%N)
check "all claims are deleted" kubectl delete -f "$SCRATCH/claims.yaml" --wait=false
eventually 300 "nothing is left of the volumes" nothing_is_left_of_volumes
echo "nothing was left $(since "$begun") s after the first was deleted"
eventually 60 "the pools are empty" pools_are_empty
eventually 30 "and as many bytes are allocated as before" pools_allocate_only "$before"
# The same pools once more: their metadata shrank and grows again.
kubectl apply -f "$SCRATCH/claims.yaml" >/dev/null
check "a second time all are bound within $BOUND_WITHIN s" all_are_bound
check "all claims are deleted" kubectl delete -f "$SCRATCH/claims.yaml" --wait=false
eventually 300 "nothing is left of the volumes" nothing_is_left_of_volumes
eventually 60 "the pools are empty" pools_are_empty
eventually 30 "and as many bytes are allocated as before" pools_allocate_only "$before"
check "no part of Ballast was restarted" nothing_was_restarted
check "class and pools go" kubectl delete storageclass/hundred storagepoolclaim/hundred --wait --timeout=120s
eventually 90 "their devices are wiped and free" devices_are_free
check "uninstall" uninstall_ballast
