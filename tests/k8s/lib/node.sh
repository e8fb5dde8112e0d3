# shellcheck shell=bash
# Nodes: what they are told, their start, loss and return. Sourced, never run.
#
# The same programs run in a machine of this system (node1 ...) and in a User-Mode Linux guest (uml1 ...); where the two
# kinds differ stands in uml-node.sh.

is_uml() { case $1 in uml*) true ;; *) false ;; esac; }

node_configure() { # node
  local config=$STATE/$1/config name=$1
  mkdir -p "$config"
  pki_make_certificate "$1" "system:node:$1" system:nodes "DNS:$1,IP:$(node_address "$1")"
  pki_make_kubeconfig "$1" "$config/kubelet.kubeconfig"
  pki_make_kubeconfig proxy "$config/proxy.kubeconfig"
  cp "$STATE/pki/ca.crt" "$config/ca.crt"
  cp "$STATE/pki/$1.crt" "$config/kubelet.crt"
  cp "$STATE/pki/$1.key" "$config/kubelet.key"
  network_commands "$1" >"$config/network"
  containerd_settings "$1" >"$config/containerd.toml"
  mkdir -p "$config/cni"
  cni_settings "$1" >"$config/cni/10-bridge.conflist"
  kubelet_settings "$1" >"$config/kubelet.yaml"
  local NAME=$name ADDRESS KIND=machine TAINTS='' FIRST_IMAGES='pause busybox ballast'
  ADDRESS=$(node_address "$1")
  if is_uml "$1"; then
    KIND=uml
    # It has one slow processor: what may run elsewhere should.
    TAINTS=ballast.test/kind=uml:PreferNoSchedule
  fi
  declare -p NAME ADDRESS KIND TAINTS FIRST_IMAGES POD_RANGE >"$config/settings"
}

containerd_settings() { # node
  # Overlayfs cannot lie on overlayfs, which is what the root of a container is.
  local snapshotter=overlayfs
  if ! is_uml "$1" && [ "$(stat --file-system --format=%T "$STATE")" = overlayfs ]; then snapshotter=native; fi
  cat <<SETTINGS
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  # Lowering the score below one's own needs a right that not every root has.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/ballast-k8s/config/cni"
SETTINGS
}

# The addresses in use are kept in /run: after a power cut no pod holds one.
cni_settings() { # node
  cat <<SETTINGS
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": "$(pod_range "$1")"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
SETTINGS
}

kubelet_settings() { # node
  local cgroup
  cgroup=$(cgroup_of "$1")
  cat <<SETTINGS
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /run/ballast-k8s/config/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /run/ballast-k8s/config/kubelet.crt
tlsPrivateKeyFile: /run/ballast-k8s/config/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
cgroupDriver: cgroupfs
cgroupRoot: $cgroup
failCgroupV1: false
enforceNodeAllocatable: []
failSwapOn: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
# Nothing could be pulled again.
imageGCHighThresholdPercent: 100
volumePluginDir: /var/lib/kubelet/volume-plugins
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: $((NODE_GRACE * 3 / 4))
SETTINGS
}

# Machines share the system's cgroups, so each has a branch of its own; a guest has a tree of its own.
cgroup_of() { if is_uml "$1"; then echo /; else echo "/ballast-k8s-$ID/$1"; fi; }

cgroup_hierarchies() {
  local hierarchy
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
    return
  fi
  for hierarchy in /sys/fs/cgroup/*; do
    if [ ! -L "$hierarchy" ] && [ -e "$hierarchy/cgroup.procs" ]; then echo "$hierarchy"; fi
  done
}

cgroup_make() { # node
  local hierarchy parent controller controllers
  for hierarchy in $(cgroup_hierarchies); do
    parent=$hierarchy/ballast-k8s-$ID
    mkdir -p "$parent"
    # Version 1: without processors and memory nothing can run in a branch.
    if [ -e "$parent/cpuset.cpus" ] && [ -e "$parent/cgroup.clone_children" ]; then
      cat "$hierarchy/cpuset.cpus" >"$parent/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$parent/cpuset.mems"
      echo 1 >"$parent/cgroup.clone_children"
    fi
    # Version 2: controllers are handed down level by level.
    if [ -e "$hierarchy/cgroup.subtree_control" ]; then
      read -ra controllers <"$hierarchy/cgroup.controllers"
      for controller in "${controllers[@]}"; do
        echo "+$controller" >"$hierarchy/cgroup.subtree_control" 2>/dev/null || true
        echo "+$controller" >"$parent/cgroup.subtree_control" 2>/dev/null || true
      done
    fi
    mkdir -p "$parent/$1"
  done
}

cgroups_remove() {
  local hierarchy
  for hierarchy in $(cgroup_hierarchies); do
    [ ! -d "$hierarchy/ballast-k8s-$ID" ] || retry 10 find "$hierarchy/ballast-k8s-$ID" -depth -type d -exec rmdir {} + || true
  done
}

# ---- for scenarios ----

# Boots a node, without waiting for it to be ready.
node_start_only() { # node
  network_attach "$1"
  if is_uml "$1"; then
    uml_make_disk "$1"
    machine_boot "$1" uml.sh "$UML_MEMORY_MB"
  else
    cgroup_make "$1"
    machine_boot "$1" node.sh
  fi
}

# The API server says Ready, and it says so of this boot.
node_is_ready() { # node
  local ready boot
  ready=$(kubectl --request-timeout=10s get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.nodeInfo.bootID}' 2>/dev/null) || return 1
  boot=$(node_exec "$1" cat /proc/sys/kernel/random/boot_id) || return 1
  [ "$ready" = "True $boot" ]
}
node_is_lost() { # node: the API server has noticed that it is silent
  case $(kubectl --request-timeout=10s get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') in False | Unknown) true ;; *) false ;; esac
}
node_wait_ready() { # node [seconds]
  retry "${2:-120}" node_is_ready "$1" && return
  complain "$1 does not become ready: $(tail -n 3 "$STATE/$1/log/kubelet.log" 2>/dev/null)"
  return 1
}

node_start() { node_start_only "$1" && node_wait_ready "$1"; } # the power is back: boots, with the disk as it was
node_stop() { machine_kill "$1"; }                             # a power cut: every process is gone at once
node_freeze() { machine_freeze "$1"; }                         # it hangs: nothing runs, connections stay open
node_thaw() { machine_thaw "$1"; }
node_cut() { ip -n "$(namespace_of control)" link set "$1" down; } # its cable is pulled
node_mend() { ip -n "$(namespace_of control)" link set "$1" up; }

# Runs a command as root on the node itself, beside its kubelet.
node_exec() { # node command...
  if is_uml "$1"; then uml_exec "$@"; else machine_exec "$@"; fi
}

# One program of a node or of `control`, for example kubelet or kube-apiserver: killed, and kept down, and let up again.
service_stop() { # node service
  local here=/run/ballast-k8s
  node_exec "$1" sh -c "touch $here/stopped/$2; [ ! -e $here/pid/$2 ] || kill -KILL \$(cat $here/pid/$2)"
}
service_start() { node_exec "$1" rm -f "/run/ballast-k8s/stopped/$2"; }
