#!/usr/bin/env bash
# The harness itself: the images that it makes run. A database on MariaDB survives its pod; Ballast's program starts.
source "$K8S_LIB/scenario.sh"

readonly SPACE=images

database() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: database}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 10
  containers:
  - name: mariadb
    image: mariadb:test
    readinessProbe: {exec: {command: [mariadb, --socket=/run/mysqld/mysqld.sock, -e, select 1]}, periodSeconds: 2}
    volumeMounts: [{name: data, mountPath: /var/lib/mysql}]
  volumes: [{name: data, hostPath: {path: /var/images-mariadb, type: DirectoryOrCreate}}]
YAML
}
program() { # node
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: program-$1, labels: {app: program}}
spec:
  nodeName: $1
  restartPolicy: Never
  containers: [{name: ballast, image: 'ballast:test', args: [--version]}]
YAML
}

apply() { kubectl -n "$SPACE" apply -f -; }
sql() { kubectl -n "$SPACE" exec database -- mariadb --socket=/run/mysqld/mysqld.sock --batch --skip-column-names -e "$1"; }
program_has_ended_well() { [ "$(kubectl -n "$SPACE" get pod "program-$1" -o 'jsonpath={.status.phase}')" = Succeeded ]; }

check "there is a namespace for it" fresh_namespace "$SPACE"

check "MariaDB's image is made and loaded" image_load mariadb node1
node_exec node1 rm -rf /var/images-mariadb
database | apply >/dev/null
eventually 90 "MariaDB starts" pod_is_ready "$SPACE" database
check "it writes" sql "create database d; create table d.t (n int primary key); insert into d.t values (1), (2), (3)"
kubectl -n "$SPACE" delete pod database --wait >/dev/null
database | apply >/dev/null
eventually 90 "MariaDB starts again" pod_is_ready "$SPACE" database
expect "it has what was written" 6 sql "select sum(n) from d.t"

if [ -e "$STATE/images/ballast.tar" ]; then
  for node in node1 ${UML_NODES%% *}; do
    program "$node" | apply >/dev/null
    eventually 90 "Ballast's program runs on $node" program_has_ended_well "$node"
  done
else
  skipped "Ballast's program runs" "none was given (--ballast FILE)"
fi

kubectl delete namespace "$SPACE" --wait=false >/dev/null
eventually 120 "the namespace goes away" namespace_is_gone "$SPACE"
