#!/usr/bin/env bash
# A node: its network, containerd, kubelet, kube-proxy. First process of a node's machine; a guest runs it too.
set -euo pipefail
source "$(dirname "$0")/common.sh"
source "$HERE/config/settings"

ip -batch "$HERE/config/network"
sysctl -qw net.ipv4.ip_forward=1
# Pods of one node that talk through a service address: their frames must pass the address translation.
sysctl -qw net.bridge.bridge-nf-call-iptables=1

keep containerd containerd --config "$HERE/config/containerd.toml"
wait_for 60 ctr --address /run/containerd/containerd.sock version || echo "containerd does not answer"

load_image() { # name
  [ -e "$HERE/images/$1.tar" ] && [ ! -e "$HERE/disk/loaded-$1" ] || return 0
  ctr --address /run/containerd/containerd.sock --namespace k8s.io image import "$HERE/images/$1.tar" || return 0
  # A guest that loses its power loses what its kernel has not written, and nobody would load it again.
  [ "$KIND" != uml ] || sync
  touch "$HERE/disk/loaded-$1"
}
for image in $FIRST_IMAGES; do load_image "$image"; done

keep kubelet "$HERE/bin/kubelet" --config="$HERE/config/kubelet.yaml" --kubeconfig="$HERE/config/kubelet.kubeconfig" \
  --hostname-override="$NAME" --node-ip="$ADDRESS" --node-labels="ballast.test/kind=$KIND" --register-with-taints="$TAINTS"

# It must not touch the limits of connection tracking, which belong to the whole system.
keep kube-proxy "$HERE/bin/kube-proxy" --kubeconfig="$HERE/config/proxy.kubeconfig" --hostname-override="$NAME" \
  --proxy-mode=iptables --cluster-cidr="$POD_RANGE" --iptables-sync-period=10s --iptables-min-sync-period=200ms \
  --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s

reap_forever
