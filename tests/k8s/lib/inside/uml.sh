#!/usr/bin/env bash
# Runs a User-Mode Linux kernel in a machine: first process of that machine, which ends with the guest.
#
#   uml.sh MEMORY_MB
set -euo pipefail
source "$(dirname "$0")/common.sh"

# The guest stands in the machine's place: eth0 and its cable are joined by a bridge that has no address itself.
ip link add guest type bridge
ip tuntap add dev tap0 mode tap
ip link set eth0 master guest up
ip link set tap0 master guest up
ip link set guest up
sysctl -qw net.bridge.bridge-nf-call-iptables=0
# Offloaded segments reach the guest as frames that it drops: large transfers would crawl.
for device in eth0 tap0; do ethtool -K $device tso off gso off gro off >/dev/null; done
ethtool -K eth0 tx off >/dev/null

mkdir -p /run/uml
linux.uml mem="$1M" rootfstype=hostfs rootflags=/ ro init="$HERE/lib/guest.sh" ubd0="$HERE/disk/disk.img" \
  uml_dir=/run/uml/ umid=guest vec0:transport=tap,ifname=tap0,depth=128,gro=1 \
  "hostname=$(hostname)" panic=-1 quiet con=null con0=null,fd:1 con1=null,fd:1 </dev/null >>"$HERE/log/console.log" 2>&1 &
guest=$!
wait $guest
