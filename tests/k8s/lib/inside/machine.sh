#!/usr/bin/env bash
# The first process of a machine (lib/machine.sh): arranges its files and becomes the program it is told.
#
#   machine.sh NAME DIRECTORY BIN IMAGES PROGRAM [ARGUMENTS]
#
# It sees the system's files, read-only, with /run, /var, /etc and /tmp of its own. The mounts are in a namespace that
# goes away with its last process.
set -euo pipefail
source "$(dirname "$0")/common.sh"
name=$1 directory=$2 bin=$3 images=$4
shift 4

# Through the old /proc this is still the number that the system outside uses.
read -r pid _ </proc/self/stat
echo "$pid" >"$directory/pid"
lib=$(cd "$(dirname "$0")" && pwd)

hostname "$name"
# A copy of a network namespace's name would keep it alive after its end.
umount --recursive /run/netns 2>/dev/null || true
# /mnt first: any of these may lie below one of the directories that are about to be hidden.
mount -t tmpfs -o mode=755 run /mnt
mkdir -p /mnt/ballast-k8s/{bin,lib,images,config,log,disk}
mount --bind "$bin" /mnt/ballast-k8s/bin
mount --bind "$lib" /mnt/ballast-k8s/lib
mount --bind "$images" /mnt/ballast-k8s/images
for part in config log disk; do mount --bind "$directory/$part" "/mnt/ballast-k8s/$part"; done
mount --no-mtab --move /mnt /run
mount -t proc proc /proc
own_files

# The kubelet sets these for the whole system. It gets files of the same names, with what it wants to find there; the
# boot's number is new for each boot of a machine, which is how it notices one.
pretend() { # file content
  local copy="/run/kernel/${1//\//-}"
  [ -e "/proc/sys/$1" ] || return 0
  mkdir -p /run/kernel
  echo "$2" >"$copy"
  mount --bind "$copy" "/proc/sys/$1"
}
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000
pretend kernel/random/boot_id "$(cat /proc/sys/kernel/random/uuid)"

mount -o remount,bind,ro /
mount --make-rshared /
cd /
echo yes >"$HERE"/log/booted
program=$1
shift
exec bash "$HERE/lib/$program" "$@"
