#!/usr/bin/env bash
# The walkthrough of cStor's users, with their manifests: install, claim pools, claim a volume, write, lose the pod, read.
source "$K8S_LIB/scenario.sh"
source "$K8S_LIB/ballast.sh"

stateful_set() {
  cat <<YAML
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: mongo, namespace: default}
spec:
  serviceName: mongo
  replicas: 1
  selector: {matchLabels: {role: mongo}}
  template:
    metadata: {labels: {role: mongo}}
    spec:
      nodeName: uml1
      terminationGracePeriodSeconds: 1
      containers:
      - name: mongo
        image: busybox:test
        command: [sleep, '100000']
        volumeMounts: [{name: mongo-pvc, mountPath: /data/db}]
  volumeClaimTemplates:
  - metadata: {name: mongo-pvc}
    spec:
      storageClassName: openebs-sparse-sc
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Gi}}
YAML
}

columns() { # resource, wanted header
  kubectl get "$1" | sed -n '1{s/ \{1,\}/ /g;s/ $//;p}' | grep -Fx "$2"
}
claim_is() { # phase
  [ "$(kubectl get pvc mongo-pvc-mongo-0 -o 'jsonpath={.status.phase}')" = "$1" ]
}
volume() { kubectl get pvc mongo-pvc-mongo-0 -o 'jsonpath={.spec.volumeName}'; }
describes() { # text: in the description of the persistent volume
  kubectl describe pv "$(volume)" | tr -s ' ' | grep -F -- "$1"
}
volume_is() { # phase
  [ "$(kubectl -n "$SPACE" get cstorvolume "$(volume)" -o 'jsonpath={.status.phase}')" = "$1" ]
}
deleting_the_namespace_is_refused() { # and the refusal says what to do
  local output
  if output=$(kubectl delete namespace "$SPACE" --wait=false 2>&1); then return 1; fi
  grep -F "helm uninstall" <<<"$output"
}
no_pool_is_left() { [ -z "$(kubectl get cstorpools -o name)" ]; }

check "the chart installs" install_ballast --set operator.replicaGracePeriod=30
eventually 60 "a device on each node" devices_are_there 3
check "the claim is accepted as it is" kubectl apply --validate=strict -f "$K8S_DIR/../../examples/storagepoolclaim-sparse.yaml"
eventually 120 "three pool pods run" pods_are_ready "$SPACE" app=cstor-pool 3
eventually 60 "three pools are healthy" pools_are_healthy 3
check "the columns of cstorpools" columns cstorpools "NAME ALLOCATED FREE CAPACITY STATUS TYPE AGE"
kubectl get cstorpools
check "the class is accepted as it is" kubectl apply --validate=strict -f "$K8S_DIR/../../examples/storageclass.yaml"
stateful_set >"$SCRATCH/mongo.yaml"
check "a StatefulSet with a claim" kubectl apply -f "$SCRATCH/mongo.yaml"
eventually 60 "the claim is bound" claim_is Bound
check "the volume's portal" describes ":3260"
check "the volume's name" describes "IQN: iqn.2016-09.com.openebs.cstor:$(volume)"
check "the volume's label" describes "openebs.io/cas-type=cstor"
expect "the ports of its Service" "3260 7777 6060 9500" kubectl -n "$SPACE" get service "$(volume)" -o 'jsonpath={.spec.ports[*].port}'
eventually 120 "the pod runs on the kernel's initiator" pod_is_ready default mongo-0
eventually 30 "the volume is healthy" volume_is Healthy
check "it is ext4" kubectl exec mongo-0 -- sh -c "grep ' /data/db ext4 rw' /proc/mounts"
check "data is written" kubectl exec mongo-0 -- sh -c 'dd if=/dev/urandom of=/data/db/file bs=1M count=20 && sync && md5sum /data/db/file > /data/db/sum'
check "the pod is deleted" kubectl delete pod mongo-0 --wait
eventually 120 "it comes back" pod_is_ready default mongo-0
check "the data is there" kubectl exec mongo-0 -- md5sum -c /data/db/sum
kubectl -n "$SPACE" get pods,svc,cstorvolumes,cstorvolumereplicas
check "helm test finds nothing wrong" helm test openebs --namespace "$SPACE" --timeout 2m
check "deleting the namespace is refused" deleting_the_namespace_is_refused
check "the application goes" kubectl delete statefulset mongo --wait
eventually 60 "its pod is gone" pods_are_gone default role=mongo
check "the claim goes" kubectl delete pvc mongo-pvc-mongo-0 --wait --timeout=60s
eventually 60 "nothing is left of the volume" nothing_is_left_of_volumes
eventually 30 "its blocks are free" pools_are_empty
check "class and pools go" kubectl delete storageclass/openebs-sparse-sc storagepoolclaim/cstor-pool --wait --timeout=120s
eventually 60 "no pool is left" no_pool_is_left
eventually 90 "their devices are wiped and free" devices_are_free
check "uninstall" uninstall_ballast
