#!/usr/bin/env bash
# The harness itself: every node runs pods, every pod and node reaches every service, volumes of the node's disk and of the
# kernel's iSCSI initiator work. When this fails, nothing that other scenarios say counts.
source "$K8S_LIB/scenario.sh"

readonly SPACE=smoke
read -ra nodes <<<"$ALL_NODES"

ready_nodes() {
  kubectl get nodes -o json |
    jq -r '[.items[] | select(any(.status.conditions[]; .type == "Ready" and .status == "True")) | .metadata.name] | join(" ")'
}

# ---- manifests ----

# A web server for each node, with a service of its own, which answers with the node's name.
web() { # node
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: web-$1, labels: {web: $1}}
spec:
  nodeName: $1
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox:test
    command: [sh, -c, "mkdir -p /www && echo $1 > /www/index.html && echo serving on $1 && exec httpd -f -p 8080 -h /www"]
    readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 2}
---
apiVersion: v1
kind: Service
metadata: {name: web-$1}
spec:
  selector: {web: $1}
  ports: [{port: 80, targetPort: 8080}]
---
YAML
}

# A privileged pod on every node that writes to a directory of the node.
agents() {
  cat <<YAML
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: agent
        image: busybox:test
        command: [sh, -c, 'echo "\$NODE" > /data/name && mkdir -p /data/mount && mount -t tmpfs t /data/mount && touch /data/mount/seen && exec sleep 100000']
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext: {privileged: true}
        volumeMounts: [{name: data, mountPath: /data, mountPropagation: Bidirectional}]
      volumes: [{name: data, hostPath: {path: /var/smoke, type: DirectoryOrCreate}}]
YAML
}

deployment() {
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: three}
spec:
  replicas: 3
  selector: {matchLabels: {app: three}}
  template:
    metadata: {labels: {app: three}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: sleep, image: 'busybox:test', command: [sleep, '100000']}]
YAML
}

iscsi_volume() {
  cat <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: smoke-iscsi}
spec:
  capacity: {storage: 200Mi}
  accessModes: [ReadWriteOnce]
  claimRef: {namespace: $SPACE, name: disk}
  storageClassName: ''
  persistentVolumeReclaimPolicy: Retain
  iscsi: {targetPortal: '$PORTAL', iqn: '$IQN', lun: 1, fsType: ext4}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  volumeName: smoke-iscsi
  resources: {requests: {storage: 200Mi}}
YAML
}
iscsi_pod() { # name
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: iscsi}}
spec:
  nodeName: uml1
  terminationGracePeriodSeconds: 1
  containers:
  - name: disk
    image: busybox:test
    command: [sleep, '100000']
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
YAML
}

# ---- what is asked ----

apply() { kubectl -n "$SPACE" apply -f -; }
apply_all() { # manifest functions that take no argument
  local manifest
  for manifest in "$@"; do "$manifest" | apply; done
}
address_of() { kubectl -n "$SPACE" get service "web-$1" -o 'jsonpath={.spec.clusterIP}'; }

every_pod_reaches_every_service() {
  local from to answer
  for from in "${nodes[@]}"; do
    for to in "${nodes[@]}"; do
      answer=$(kubectl -n "$SPACE" exec "web-$from" -- timeout 5 wget -q -O - "http://$(address_of "$to")/") || { echo "$from -> $to: no answer"; return 1; }
      [ "$answer" = "$to" ] || { echo "$from -> $to: $answer"; return 1; }
    done
  done
}
every_node_reaches_every_service() {
  local from to answer
  for from in "${nodes[@]}"; do
    for to in "${nodes[@]}"; do
      answer=$(node_exec "$from" timeout 5 busybox wget -q -O - "http://$(address_of "$to")/") || { echo "$from -> $to: no answer"; return 1; }
      [ "$answer" = "$to" ] || { echo "$from -> $to: $answer"; return 1; }
    done
  done
}
every_node_has_its_own_file() {
  local node
  for node in "${nodes[@]}"; do prints "$node" node_exec "$node" cat /var/smoke/name || return 1; done
  [ ! -e /var/smoke ] || { echo "it is on this system's own disk"; return 1; }
}
every_node_sees_its_pod_s_mount() {
  local node
  for node in "${nodes[@]}"; do
    node_exec "$node" test -e /var/smoke/mount/seen || { echo "not on $node"; return 1; }
    node_exec "$node" umount /var/smoke/mount || return 1
  done
}
a_pod_may_not_read_secrets() {
  [ "$(kubectl auth can-i list secrets -n "$SPACE" --as "system:serviceaccount:$SPACE:default")" = no ]
}
the_api_server_answers_pods() {
  kubectl -n "$SPACE" exec "web-${nodes[0]}" -- sh -c 'nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null'
}

# tgt with one disk on a file of the node, at the node's own address.
start_target() { # node
  stop_target "$1"
  node_exec "$1" bash -c "
    set -e
    mkdir -p /var/smoke-target /run/tgtd
    truncate -s 256M /var/smoke-target/disk
    setsid tgtd -f -C 1 --iscsi portal=$PORTAL >/run/tgtd/log 2>&1 </dev/null &
    echo \$! >/run/tgtd/pid
    admin() { tgtadm -C 1 --lld iscsi --mode \"\$@\"; }
    for _ in \$(seq 50); do admin target --op show >/dev/null 2>&1 && break; sleep 0.2; done
    admin target --op new --tid 1 --targetname $IQN
    admin logicalunit --op new --tid 1 --lun 1 --backing-store /var/smoke-target/disk
    admin target --op bind --tid 1 --initiator-address ALL"
}
stop_target() { # node
  node_exec "$1" sh -c '[ ! -e /run/tgtd/pid ] || kill -KILL $(cat /run/tgtd/pid); rm -rf /run/tgtd /var/smoke-target'
}
pod_writes() { kubectl -n "$SPACE" exec "$1" -- sh -c 'dd if=/dev/urandom of=/disk/data bs=1M count=32 2>/dev/null && sync && md5sum /disk/data'; }
disk_is_ext4_of_the_kernel() {
  kubectl -n "$SPACE" exec "$1" -- sh -c 'grep " /disk ext4 rw" /proc/mounts'
  node_exec uml1 iscsiadm -m session
}
no_session() { ! node_exec uml1 iscsiadm -m session; }

# ---- the checks ----

expect "all nodes are ready" "$ALL_NODES" ready_nodes
check "helm answers" helm version --short
check "helm reaches the cluster" helm list -A
check "there is a namespace for it" fresh_namespace "$SPACE"

for node in "${nodes[@]}"; do web "$node"; done | apply >/dev/null
apply_all agents deployment >/dev/null
eventually 90 "a pod runs on every node" pods_are_ready "$SPACE" web "${#nodes[@]}"
eventually 60 "a privileged daemon set has a pod on every node" pods_are_ready "$SPACE" app=agent "${#nodes[@]}"
eventually 60 "a deployment has its pods" pods_are_ready "$SPACE" app=three 3
eventually 30 "every pod reaches every node's pod by its service" every_pod_reaches_every_service
check "every node reaches every node's pod by its service" every_node_reaches_every_service
check "a directory of the node is each node's own" every_node_has_its_own_file
check "what a pod mounts for its node is mounted there" every_node_sees_its_pod_s_mount
check "pods reach the API server" the_api_server_answers_pods
check "RBAC is on" a_pod_may_not_read_secrets
for node in "${nodes[@]}"; do expect "logs from $node" "serving on $node" kubectl -n "$SPACE" logs "web-$node"; done

if [ -z "$UML_NODES" ]; then
  skipped "iSCSI volumes" "no User-Mode Linux node"
else
  PORTAL=$(node_address node1):3260 IQN=iqn.2026-01.io.ballast.tests:smoke
  check "a foreign target serves on node1" start_target node1
  iscsi_volume | apply >/dev/null
  iscsi_pod first | apply >/dev/null
  eventually 90 "a pod on uml1 mounts the iSCSI volume" pod_is_ready "$SPACE" first
  check "it is the kernel's disk with ext4" disk_is_ext4_of_the_kernel first
  written=$(pod_writes first)
  kubectl -n "$SPACE" delete pod first --wait >/dev/null
  eventually 60 "the volume is logged out of" no_session
  iscsi_pod second | apply >/dev/null
  eventually 90 "another pod mounts it" pod_is_ready "$SPACE" second
  expect "what was written is there" "$written" kubectl -n "$SPACE" exec second -- md5sum /disk/data
  kubectl -n "$SPACE" delete pod second --wait >/dev/null
  kubectl -n "$SPACE" delete pvc disk >/dev/null
  kubectl delete pv smoke-iscsi >/dev/null
  check "the target ends" stop_target node1
fi
kubectl delete namespace "$SPACE" --wait=false >/dev/null
eventually 120 "the namespace goes away" namespace_is_gone "$SPACE"
