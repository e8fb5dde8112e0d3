# shellcheck shell=bash
# A node inside a User-Mode Linux guest: a real kernel that runs as a process, with the Linux iSCSI initiator that the
# system's own kernel may lack. Sourced, never run.
#
# The guest's root is its machine's, read-only; lib/inside/uml.sh starts it, lib/inside/guest.sh is its first process.
# Its disk is one ext4 file. It answers commands on a TCP port that only this cluster's network can reach.

readonly UML_COMMAND_PORT=1022

uml_make_disk() { # node
  local disk=$STATE/$1/disk/disk.img
  [ ! -e "$disk" ] || return 0
  mkdir -p "$STATE/$1/disk"
  truncate -s "${UML_DISK_GB}G" "$disk"
  mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1 "$disk"
}

# Why no guest can run here, if none can.
uml_lacking() {
  local program
  for program in linux.uml iscsid iscsiadm mkfs.ext4 modprobe udevadm socat ethtool iptables-legacy; do
    have $program || { echo "$program is not installed"; return; }
  done
  [ -e /dev/net/tun ] || echo "no /dev/net/tun here (the guest's network needs it)"
}

# The command's output and errors come together; its input is empty. The last line says how it ended.
uml_exec() { # node command...
  local node=$1 answer status
  shift
  # A guest that is still booting refuses the connection.
  answer=$(printf '%q ' "$@" | inside_network control socat -t 900 - \
    "TCP:$(node_address "$node"):$UML_COMMAND_PORT,connect-timeout=10" 2>&1; echo .)
  answer=${answer%.}
  status=$(sed -n '$s/^.*command ended: \([0-9]*\)$/\1/p' <<<"${answer%$'\n'}")
  if [ -z "$status" ]; then
    complain "$node does not answer: $answer"
    return 255
  fi
  answer=${answer%command ended: *}
  printf '%s' "$answer"
  return "$status"
}
