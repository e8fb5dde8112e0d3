# shellcheck shell=bash
# The cluster as a whole: its state, its control plane, its end. Sourced, never run.

source "$K8S_DIR/lib/pki.sh"
source "$K8S_DIR/lib/network.sh"
source "$K8S_DIR/lib/machine.sh"
source "$K8S_DIR/lib/node.sh"
source "$K8S_DIR/lib/uml-node.sh"
source "$K8S_DIR/lib/images.sh"

# A state directory, and from its name the name of everything that cannot live in it.
cluster_make_state() { # number of nodes, number of User-Mode Linux nodes
  local number
  STATE=$(mktemp -d "${TMPDIR:-/tmp}/ballast-k8s.XXXXXXXX")
  ID=${STATE##*.}
  NODES='' UML_NODES=''
  for ((number = 1; number <= $1; number++)); do NODES+="${NODES:+ }node$number"; done
  for ((number = 1; number <= $2; number++)); do UML_NODES+="${UML_NODES:+ }uml$number"; done
  ALL_NODES="$NODES${UML_NODES:+ }$UML_NODES"
  UML_MEMORY_MB=${UML_MEMORY_MB:-2048} UML_DISK_GB=${UML_DISK_GB:-10}
  # How long a silent node counts as ready, and how long its pods are waited for after that: short, so that tests are.
  NODE_GRACE=${NODE_GRACE:-20} EVICT_AFTER=${EVICT_AFTER:-15}
  mkdir -p "$STATE"/{images,bin}
  save_environment
  mkdir -p "$K8S_CACHE/running"
  echo "$$ $STATE" >"$K8S_CACHE/running/$ID"
  make_client kubectl
  make_client helm
}

# kubectl and helm as programs, with the cluster's network and the administrator's rights.
make_client() { # name
  cat >"$STATE/bin/$1" <<CLIENT
#!/bin/sh
export KUBECONFIG="$STATE/admin.kubeconfig" HELM_CACHE_HOME="$STATE/helm" HELM_CONFIG_HOME="$STATE/helm" HELM_DATA_HOME="$STATE/helm"
exec nsenter --net="/run/netns/$(namespace_of control)" "$BIN/$1" "\$@"
CLIENT
  chmod +x "$STATE/bin/$1"
  PATH=$STATE/bin:$PATH
}

control_configure() {
  local config=$STATE/control/config name
  mkdir -p "$config/pki"
  pki_make_authority
  pki_make_certificate apiserver kube-apiserver ballast-test "DNS:kubernetes,DNS:kubernetes.default,\
DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$CONTROL_ADDRESS,IP:$FIRST_SERVICE"
  pki_make_certificate apiserver-to-kubelet kube-apiserver-kubelet-client system:masters
  pki_make_certificate admin admin system:masters
  pki_make_certificate controller-manager system:kube-controller-manager system:kube-controller-manager
  pki_make_certificate scheduler system:kube-scheduler system:kube-scheduler
  pki_make_certificate proxy system:kube-proxy system:kube-proxy
  for name in ca apiserver apiserver-to-kubelet service-accounts; do cp "$STATE/pki/$name".* "$config/pki/"; done
  for name in controller-manager scheduler; do pki_make_kubeconfig $name "$config/$name.kubeconfig"; done
  pki_make_kubeconfig admin "$STATE/admin.kubeconfig"
  declare -p CONTROL_ADDRESS SERVICE_RANGE EVICT_AFTER NODE_GRACE >"$config/settings"
}

control_is_ready() { [ "$(kubectl --request-timeout=10s get --raw /readyz 2>/dev/null)" = ok ]; }
control_serves_accounts() { kubectl --request-timeout=10s -n default get serviceaccount default; }

# Everything up and every node ready, or a failure.
cluster_up() {
  local begun node
  begun=$(date +%s%N)
  control_configure
  network_up
  machine_boot control control.sh
  # The nodes boot meanwhile; their kubelets ask for the API server until it is there.
  for node in $ALL_NODES; do node_configure "$node"; done
  for node in $UML_NODES; do node_start_only "$node" || return 1; done
  retry 180 control_is_ready || { complain "the API server does not become ready"; return 1; }
  say "API server ready after $(since "$begun") s"
  for node in $NODES; do node_start_only "$node" || return 1; done
  retry 60 control_serves_accounts || { complain "the controller manager makes no service accounts"; return 1; }
  say "control plane ready after $(since "$begun") s"
  for node in $ALL_NODES; do
    node_wait_ready "$node" || return 1
    say "$node ready after $(since "$begun") s"
  done
}

cluster_down() {
  local name
  for name in $ALL_NODES control; do machine_kill "$name" || true; done
  network_down
  cgroups_remove
  rm -rf "$STATE" "$K8S_CACHE/running/$ID"
}

# Takes down what runs left that were killed before they could do it.
cluster_sweep() {
  local note owner state
  for note in "$K8S_CACHE"/running/*; do
    [ -e "$note" ] || continue
    read -r owner state <"$note" 2>/dev/null || continue
    if grep -qa 'k8s/run\|\./run' "/proc/$owner/cmdline" 2>/dev/null; then continue; fi
    if [ -e "$state/env" ]; then
      say "taking down the cluster that an ended run left in $state"
      (load_environment "$state" && cluster_down)
    fi
    rm -f "$note"
  done
}

# What a cluster that was taken down should not have left. Prints what it finds.
cluster_remains() {
  local found=0 process
  [ ! -e "$STATE" ] || { echo "the directory $STATE"; found=1; }
  ls -d /run/netns/ballast-k8s-"$ID"-* 2>/dev/null && found=1
  grep -F "ballast-k8s-$ID" /proc/self/mountinfo && found=1
  grep -F "$STATE" /proc/self/mountinfo && found=1
  find /sys/fs/cgroup -maxdepth 2 -type d -name "ballast-k8s-$ID" | grep . && found=1
  for process in /proc/[0-9]*; do
    if { tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null | grep -F -e "$STATE" -e "ballast-k8s-$ID"; then found=1; fi
  done
  return $found
}
