# shellcheck shell=bash
# The cluster's network: namespaces of its own, joined by one bridge. Sourced, never run.
#
#   namespace ...-control        namespace ...-node1         namespace ...-uml1        guest
#   bridge 10.77.0.1 <- node1 <-> eth0 10.77.0.11
#                    <- uml1 <-------------------------> eth0 <- bridge -> tap0 <-> eth0 10.77.0.101
#
# A node's pods have the addresses 10.88.N.0/24, N being the last number of the node's own address. Nothing leads out:
# no interface of any of these namespaces reaches the machine's own network.

readonly CONTROL_ADDRESS=10.77.0.1
readonly SERVICE_RANGE=10.96.0.0/16
readonly FIRST_SERVICE=10.96.0.1
readonly POD_RANGE=10.88.0.0/16

namespace_of() { echo "ballast-k8s-$ID-$1"; }
inside_network() { # node command...: runs it with the node's network, and nothing else of it
  local namespace
  namespace=$(namespace_of "$1")
  shift
  nsenter --net="/run/netns/$namespace" "$@"
}

node_number() { # node1 -> 11, uml1 -> 101
  case $1 in
    node*) echo $((10 + ${1#node})) ;;
    uml*) echo $((100 + ${1#uml})) ;;
  esac
}
node_address() { echo "10.77.0.$(node_number "$1")"; }
pod_range() { echo "10.88.$(node_number "$1").0/24"; }

network_up() {
  local control node
  control=$(namespace_of control)
  ip netns add "$control"
  ip -n "$control" link set lo up
  ip -n "$control" link add cluster type bridge
  ip -n "$control" addr add "$CONTROL_ADDRESS/24" dev cluster
  ip -n "$control" link set cluster up
  # Frames between nodes are none of this namespace's business.
  inside_network control sysctl -qw net.bridge.bridge-nf-call-iptables=0
  # The nodes' default route leads here, and what belongs to nobody is refused at once instead of timing out.
  inside_network control sysctl -qw net.ipv4.ip_forward=1
  ip -n "$control" route add unreachable default
  for node in $ALL_NODES; do
    ip -n "$control" route add "$(pod_range "$node")" via "$(node_address "$node")"
  done
}

# The cable between the bridge and a node, whose namespace is made anew: a machine that boots has no old rules.
network_attach() { # node
  local control namespace
  control=$(namespace_of control) namespace=$(namespace_of "$1")
  network_detach "$1"
  ip netns add "$namespace"
  ip -n "$control" link add "$1" type veth peer name eth0 netns "$namespace"
  ip -n "$control" link set "$1" master cluster up
  ip -n "$namespace" link set lo up
}
network_detach() { # node
  local control namespace
  control=$(namespace_of control) namespace=$(namespace_of "$1")
  ip -n "$control" link delete "$1" 2>/dev/null || true
  [ ! -e "/run/netns/$namespace" ] || ip netns delete "$namespace"
}

# What a node must do to be part of it, as input for `ip -batch`.
network_commands() { # node
  local other
  echo "link set lo up"
  echo "link set eth0 up"
  echo "addr add $(node_address "$1")/24 dev eth0"
  echo "route add default via $CONTROL_ADDRESS"
  for other in $ALL_NODES; do
    [ "$other" = "$1" ] || echo "route add $(pod_range "$other") via $(node_address "$other")"
  done
}

network_down() {
  local namespace
  for namespace in /run/netns/ballast-k8s-"$ID"-*; do
    [ ! -e "$namespace" ] || ip netns delete "${namespace##*/}" || true
  done
}
