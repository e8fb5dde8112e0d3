#!/usr/bin/env bash
# The first process of a User-Mode Linux guest: makes the read-only tree usable and becomes the node's program.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
set -euo pipefail
mount -t proc proc /proc
source "$(dirname "$0")/common.sh"
trap 'echo "GUEST-FAILED at line $LINENO"; busybox poweroff -f' ERR

readonly MODULES=/usr/lib/uml/modules
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null || true
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
name=$(sed 's/.*hostname=\([^ ]*\).*/\1/' /proc/cmdline)
hostname "$name"

mount -t tmpfs -o mode=755 run /mnt
mkdir -p /mnt/ballast-k8s/{bin,lib,images,config,log,disk} /mnt/modules/lib
for part in bin lib images config; do mount --bind "$HERE/$part" "/mnt/ballast-k8s/$part"; done
# The root is mounted read-only; the logs are written through a mount of their own.
mount -t hostfs -o "$HERE/log" log /mnt/ballast-k8s/log
mount -t ext4 /dev/ubda /mnt/ballast-k8s/disk
mount --no-mtab --move /mnt /run
own_files
exec >>"$HERE/log/guest.log" 2>&1

# The system need not have a directory /lib/modules, so modprobe is told where to look.
ln -s $MODULES /run/modules/lib/modules
printf '#!/bin/sh\nexec modprobe -d /run/modules "$@"\n' >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
for module in overlay bridge br_netfilter veth crc32c_generic sd_mod iscsi_tcp dm-multipath \
  ip_tables iptable_filter iptable_nat iptable_mangle ip6_tables ip6table_filter ip6table_nat ip6table_mangle nf_conntrack xt_comment xt_conntrack xt_mark xt_nat xt_tcpudp \
  xt_addrtype xt_statistic xt_MASQUERADE xt_REDIRECT xt_recent ipt_REJECT; do
  /run/modprobe $module || echo "no module $module"
done
# This kernel has no address translation in nf_tables.
for table in iptables ip6tables; do
  for part in '' -save -restore; do ln -sf /usr/sbin/$table-legacy$part /etc/alternatives/$table$part; done
done

mount -t cgroup2 cgroup /sys/fs/cgroup
echo "+cpu +memory +pids +io" >/sys/fs/cgroup/cgroup.subtree_control
mount -t bpf bpf /sys/fs/bpf || true
# The kubelet looks for a clock rate and for the number of cores.
{
  sed '/^$/d' /proc/cpuinfo
  printf 'cpu MHz\t\t: 2000.000\nphysical id\t: 0\ncore id\t\t: 0\ncpu cores\t: 1\n\n'
} >/run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
mount --make-rshared /

ip link set vec0 down
ip link set vec0 name eth0

# The initiator, and the daemon that names its disks.
echo "InitiatorName=iqn.2016-09.io.ballast.tests:$name" >/etc/iscsi/initiatorname.iscsi
{
  echo "node.startup = manual"
  echo "node.session.timeo.replacement_timeout = 120"
  echo "node.conn[0].timeo.noop_out_interval = 5"
  echo "node.conn[0].timeo.noop_out_timeout = 5"
} >/etc/iscsi/iscsid.conf
mkdir -p /run/lock/iscsi
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
keep iscsid iscsid --foreground

# Runs what it is sent and says how that ended.
cat >/run/answer <<'ANSWER'
command=$(cat)
bash -c "$command" </dev/null 2>&1
echo "command ended: $?"
ANSWER
keep answer socat -t 900 TCP-LISTEN:1022,reuseaddr,fork EXEC:"bash /run/answer"

exec bash "$HERE/lib/node.sh"
