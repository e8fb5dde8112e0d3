#!/usr/bin/env bash
# A database on a replicated volume: its committed rows survive kill -9 of the target, of the leading pool and the loss of a
# node; the status tells the truth, the lost replica is made anew elsewhere, and its remains go when the node is back.
source "$K8S_LIB/scenario.sh"
source "$K8S_LIB/ballast.sh"

if [ -z "$UML_NODES" ]; then
  skipped "a database on a volume" "no User-Mode Linux node"
  exit
fi

readonly GRACE=30
# The operator and the target must not be on the node that is lost: what is asked here is how the loss of a pool shows.
readonly KEPT=node1

install_chart() {
  install_ballast --set operator.replicaGracePeriod=$GRACE \
    --set "operator.nodeSelector.kubernetes\.io/hostname=$KEPT" --set "provisioner.nodeSelector.kubernetes\.io/hostname=$KEPT"
}
objects() {
  pools_and_class database 4 3 "{name: TargetNodeSelector, value: 'kubernetes.io/hostname: $KEPT'}"
  echo ---
  claim database database 1Gi
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: database, namespace: default}
spec:
  nodeName: uml1
  terminationGracePeriodSeconds: 20
  containers:
  - name: mariadb
    image: mariadb:test
    readinessProbe:
      exec: {command: [mariadb, --socket=/run/mysqld/mysqld.sock, -e, select 1]}
      periodSeconds: 5
      timeoutSeconds: 5
    volumeMounts: [{name: data, mountPath: /var/lib/mysql}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: database}}]
YAML
}

volume() { kubectl get pvc database -o 'jsonpath={.spec.volumeName}'; }
status() { kubectl -n "$SPACE" get cstorvolume "$volume" -o "jsonpath={.status.$1}"; }
volume_is() { [ "$(status phase)" = "$1" ] || { echo "$(status phase): $(status message)"; return 1; }; }
pool_phase() { kubectl get cstorpool "$1" -o 'jsonpath={.status.phase}'; }
replica_in() { # pool: the phase of the volume's replica there
  kubectl -n "$SPACE" get cstorvolumereplicas -l "cstorpool.openebs.io/name=$1" -o 'jsonpath={.items[*].status.phase}'
}

# ---- the database ----

sql() { timeout 100 kubectl exec database -- mariadb --socket=/run/mysqld/mysqld.sock --batch --skip-column-names -e "$1"; }
# Inserts one row after the other from within the pod and prints each, with the time, when it is committed.
write_rows() {
  # shellcheck disable=SC2016 # the pod's shell expands it
  kubectl exec database -- bash -c 'n=1; while [ ! -e /tmp/enough ]; do
    mariadb --socket=/run/mysqld/mysqld.sock -e "insert into d.t values ($n)" || exit 1
    echo "$n $(date +%s%N)"; n=$((n + 1)); done' >"$SCRATCH/committed" 2>"$SCRATCH/refused"
}
committed() { wc -l <"$SCRATCH/committed"; }
more_rows_than() { [ "$(committed)" -gt "$1" ] || { echo "still $1 rows"; return 1; }; }
rows_go_on() { # seconds name: three more rows are committed within that time
  local at
  at=$(committed)
  eventually "$1" "$2" more_rows_than $((at + 2))
}
longest_pause() { # first row to look at: between two commits, in seconds
  awk -v from="$1" 'last && $1 >= from && $2 - last > most {most = $2 - last} {last = $2} END {printf "%.1f", most / 1e9}' "$SCRATCH/committed"
}
every_committed_row_is_there() {
  sql "select n from d.t order by n" >"$SCRATCH/rows"
  cut -d' ' -f1 "$SCRATCH/committed" | cmp - "$SCRATCH/rows"
}
database_was_never_disturbed() {
  prints 0 kubectl get pod database -o 'jsonpath={.status.containerStatuses[0].restartCount}' || return 1
  kubectl exec database -- grep ' /var/lib/mysql ext4 rw' /proc/mounts || return 1
  # The kernel tells what a file system went through.
  ! node_exec uml1 dmesg | grep -iE 'remounting filesystem read-only|ext4-fs.*error|I/O error|aborted journal'
}

# ---- the loss of a node ----

all_tell_the_loss_of() { # pool
  local pool_says replica_says
  pool_says=$(pool_phase "$1") replica_says=$(replica_in "$1")
  case $pool_says/$replica_says in
    Offline/Offline | Offline/Unknown | Unknown/Unknown) volume_is Degraded ;;
    *) echo "pool: $pool_says, replica: $replica_says"; return 1 ;;
  esac
}
replicas_are_elsewhere() { # pool: none of the volume's is in it any more, and there are three
  kubectl -n "$SPACE" get cstorvolumereplicas -o json | jq -e --arg pool "$1" '
    [.items[].metadata.labels["cstorpool.openebs.io/name"]] | length == 3 and all(. != $pool)' >/dev/null
}
deletion_is_noted() { kubectl get cstorpool "$1" -o yaml | grep deletion.openebs.io/; }

# ---- the checks ----

check "MariaDB's image" image_load mariadb uml1
check "the chart installs" install_chart
eventually 60 "a device on each node" devices_are_there 4
objects >"$SCRATCH/objects.yaml"
check "pools, class, claim and database are accepted" kubectl apply --validate=strict -f "$SCRATCH/objects.yaml"
eventually 240 "the database starts on the kernel's initiator" pod_is_ready default database
eventually 60 "four pools are healthy" pools_are_healthy 4
volume=$(volume)
eventually 30 "the volume is healthy" volume_is Healthy
check "a table" sql "create database d; create table d.t (n int primary key)"
: >"$SCRATCH/committed"
write_rows &
writer=$!
rows_go_on 60 "rows are written"

first=$(committed)
check "kill -9 of the target" kill_process_of "$(pod_of "openebs.io/target=cstor-target,openebs.io/persistent-volume=$volume")"
rows_go_on 60 "rows are written after it"
echo "the longest pause was $(longest_pause "$first") s"

leader=$(status leader) first=$(committed)
check "kill -9 of the leading pool $leader" kill_process_of "$(pod_of "openebs.io/cstor-pool=$leader")"
rows_go_on 60 "rows are written after it"
eventually 90 "the volume is healthy again" volume_is Healthy
echo "the longest pause was $(longest_pause "$first") s"

# A node with a replica, but not the one with the target or the database.
read -r lost pool < <(kubectl -n "$SPACE" get cstorvolumereplicas -o json | jq -r --arg kept $KEPT '
  [.items[] | .node = .metadata.annotations["cstorpool.openebs.io/hostname"] | select(.node != $kept and .node != "uml1")][0]
  | .node + " " + .metadata.labels["cstorpool.openebs.io/name"]')
first=$(committed)
check "the power of $lost is cut" node_stop "$lost"
eventually 15 "pool, replica and volume tell it within 15 s" all_tell_the_loss_of "$pool"
rows_go_on 30 "rows are written meanwhile"
eventually $((GRACE + 90)) "its replica is made anew in the fourth pool" replicas_are_elsewhere "$pool"
eventually 60 "the volume is healthy again" volume_is Healthy
check "its old replica is noted to be deleted" deletion_is_noted "$pool"
echo "the longest pause was $(longest_pause "$first") s"
check "$lost boots and is ready" node_start "$lost"
eventually 120 "four pools are healthy again" pools_are_healthy 4
eventually 30 "the old replica is gone, and the note" pool_is_empty "$pool"

rows_go_on 30 "rows are written"
check "the writer is told to end" kubectl exec database -- touch /tmp/enough
wait "$writer" || echo "the writer ended with status $?" >>"$SCRATCH/refused"
expect "no write was refused" '' cat "$SCRATCH/refused"
check "every committed row is there, and no other" every_committed_row_is_there
echo "$(committed) rows, the longest pause in all was $(longest_pause 1) s"
expect "InnoDB finds nothing wrong" "d.t	check	status	OK" sql "check table d.t"
check "the pod was not restarted, its file system never read-only" database_was_never_disturbed

check "the database goes" kubectl delete pod database --wait --timeout=120s
check "its claim goes" kubectl delete pvc database --wait --timeout=60s
eventually 60 "nothing is left of the volume" nothing_is_left_of_volumes
eventually 30 "its blocks are free" pools_are_empty
check "class and pools go" kubectl delete storageclass/database storagepoolclaim/database --wait --timeout=120s
eventually 90 "their devices are wiped and free" devices_are_free
check "uninstall" uninstall_ballast
