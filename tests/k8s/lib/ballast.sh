# shellcheck shell=bash
# Ballast in the cluster, for scenarios that install it: source "$K8S_LIB/ballast.sh" after scenario.sh.

readonly SPACE=openebs

install_ballast() { # [helm option...]
  kubectl create namespace $SPACE || true
  helm upgrade --install openebs "$K8S_DIR/../../charts/ballast" --namespace $SPACE --wait --timeout 3m \
    --set image.repository=ballast --set image.tag=test --set image.pullPolicy=IfNotPresent \
    --set ndm.sparse.size=2147483648 "$@"
}
uninstall_ballast() { helm uninstall openebs --namespace $SPACE --wait --timeout 3m; }

# A StoragePoolClaim on the sparse files of so many nodes, and a StorageClass that uses it, both of this name.
pools_and_class() { # name pools replicas [more of cas.openebs.io/config, one {name, value} each]
  local setting more=''
  for setting in "${@:4}"; do more+=$'\n'"      - $setting"; done
  cat <<YAML
apiVersion: openebs.io/v1alpha1
kind: StoragePoolClaim
metadata: {name: $1}
spec: {type: sparse, maxPools: $2, poolSpec: {poolType: striped}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: $1
  annotations:
    openebs.io/cas-type: cstor
    cas.openebs.io/config: |
      - {name: StoragePoolClaim, value: $1}
      - {name: ReplicaCount, value: "$3"}$more
provisioner: openebs.io/provisioner-iscsi
YAML
}
claim() { # name class size
  cat <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1, namespace: default}
spec:
  storageClassName: $2
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: $3}}
---
YAML
}

mounting_pod() { # name claim: a pod on uml1, whose kernel mounts the volume at /data
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: default}
spec:
  nodeName: uml1
  terminationGracePeriodSeconds: 1
  containers:
  - name: $1
    image: busybox:test
    command: [sleep, '100000']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: $2}}]
YAML
}

devices_are_there() { # count
  [ "$(kubectl -n $SPACE get blockdevices -o name | wc -l)" -ge "$1" ]
}
devices_are_free() { # none claimed, none with a pool's label left
  local taken
  taken=$(kubectl -n $SPACE get blockdevices -o json | jq -c '.items[] | select(.status.claimState != "Unclaimed" or (.status.poolID // "") != "") | [.metadata.name, .status]')
  [ -z "$taken" ] || { echo "not free: $taken"; return 1; }
}
pools_are_healthy() { # count: exactly so many, all of them
  kubectl get cstorpools -o json |
    jq -e --argjson count "$1" '[.items[].status.phase] | length == $count and all(. == "Healthy")' >/dev/null ||
    { kubectl get cstorpools; return 1; }
}
# What is allocated in each pool, in three digits; below 1 KiB in bytes.
pools_allocate() { kubectl get cstorpools -o json | jq -c '[.items[] | {(.metadata.name): .status.capacity.used}] | add'; }
pools_allocate_only() { # what pools_allocate said
  local now
  now=$(pools_allocate)
  [ "$now" = "$1" ] || { echo "allocated before: $1, now: $now"; return 1; }
}
# No replica is in them, and none is still to be deleted.
pools_are_empty() { pool_is_empty ''; }
pool_is_empty() { # pool, or nothing for all
  local full
  full=$(kubectl get cstorpools -o json | jq -c --arg pool "$1" '.items[] | select($pool == "" or .metadata.name == $pool)
    | [.metadata.name, .status.replicas, [.metadata.annotations // {} | keys[] | select(startswith("deletion."))]]
    | select(.[1] != 0 or .[2] != [])')
  [ -z "$full" ] || { echo "not empty: $full"; return 1; }
}

# Everything that a volume brings with it.
nothing_is_left_of_volumes() {
  local left
  left=$(
    kubectl get pv,pvc -A -o name
    kubectl -n $SPACE get cstorvolumes,cstorvolumereplicas -o name
    kubectl -n $SPACE get deployments,replicasets,pods,services,endpointslices,configmaps,secrets -o name | grep -F /pvc-
  )
  [ -z "$left" ] || { echo "left: $(wc -l <<<"$left"), first: $(head -n 5 <<<"$left")"; return 1; }
}

# kill -9 of the process of a pod's only container, on the pod's node.
kill_process_of() { # pod
  local at
  at=$(kubectl -n $SPACE get pod "$1" -o 'jsonpath={.spec.nodeName} {.status.containerStatuses[0].containerID}')
  node_exec "${at% *}" ctr --address /run/containerd/containerd.sock --namespace k8s.io tasks kill --signal 9 "${at#* containerd://}"
}
pod_of() { # selector
  kubectl -n $SPACE get pods -l "$1" -o json |
    jq -er '[.items[] | select(.metadata.deletionTimestamp == null)][0].metadata.name'
}
