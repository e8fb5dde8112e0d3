# Runs inside the guest (src/uml.rs). The first lines, put before this by the test, set:
#   PORTAL=ip:port  SECONDS_OF_IO=n  VOLUMES="iqn=filesystem ..."
# Prints PHASE lines that the test waits for; the exit status is the verdict.

fail() { echo "GUEST-FAILED $*"; dmesg | tail -n 30; exit 1; }

# The disk of a logged-in target, as the kernel names it.
disk_of() {
  for session in /sys/class/iscsi_session/session*; do
    [ "$(cat "$session/targetname")" = "$1" ] || continue
    for disk in "$session"/device/target*/*/block/*; do [ -e "$disk" ] && basename "$disk" && return 0; done
  done
  return 1
}

wait_for_disk() {
  for _ in $(seq 150); do disk_of "$1" && return 0; sleep 0.2; done
  return 1
}

# fio with a checksum in every block, on a mounted file system; the same seed makes the same content.
check_files() { # kind seed options...
  local kind=$1 seed=$2
  shift 2
  fio --name=check --directory="/run/mnt/$kind" --randseed="$seed" --thread --rw=randwrite --bsrange=4k-64k --size=24m --ioengine=libaio \
    --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --eta=never "$@"
}

# Takes over what a disk has grown by, under its mounted file system.
take_growth() {
  iscsiadm -m session --rescan > /run/rescan.log || fail "rescan"
  for pair in $mounted; do
    local disk=${pair%=*} kind=${pair#*=} before after
    [ "$(blockdev --getsize64 "/dev/$disk")" -gt "$(cat "/run/size-$disk")" ] || continue
    before=$(df --output=size -B1 "/run/mnt/$kind" | tail -n 1)
    case $kind in
      ext4) resize2fs "/dev/$disk" > /run/resize.log 2>&1 || { cat /run/resize.log; fail "resize2fs"; } ;;
      xfs) xfs_growfs "/run/mnt/$kind" > /run/resize.log 2>&1 || { cat /run/resize.log; fail "xfs_growfs"; } ;;
    esac
    after=$(df --output=size -B1 "/run/mnt/$kind" | tail -n 1)
    [ "$after" -gt "$before" ] || fail "$kind has not grown: $before $after"
    blockdev --getsize64 "/dev/$disk" > "/run/size-$disk"
    echo "GROWN $kind to $(cat "/run/size-$disk")"
  done
}

for module in crc32c_generic sd_mod iscsi_tcp; do modprobe -d /run/modules $module || echo "no module $module"; done
{
  echo "node.startup = manual"
  echo "node.session.timeo.replacement_timeout = 120"
  echo "node.conn[0].timeo.noop_out_interval = 5"
  echo "node.conn[0].timeo.noop_out_timeout = 5"
} > /etc/iscsi/iscsid.conf
iscsid || fail "iscsid does not start"
iscsiadm -m discovery -t sendtargets -p "$PORTAL" || fail "discovery"

mounted=
for volume in $VOLUMES; do
  iqn=${volume%=*} kind=${volume##*=}
  iscsiadm -m node -T "$iqn" -p "$PORTAL" --login || fail "login to $iqn"
  disk=$(wait_for_disk "$iqn") || fail "no disk for $iqn"
  case $kind in
    ext4) mkfs.ext4 -q -F "/dev/$disk" || fail "mkfs.ext4" ;;
    xfs) mkfs.xfs -q -f "/dev/$disk" || fail "mkfs.xfs" ;;
  esac
  mkdir -p "/run/mnt/$kind"
  mount "/dev/$disk" "/run/mnt/$kind" || fail "mount $kind"
  mounted="$mounted $disk=$kind"
  blockdev --getsize64 "/dev/$disk" > "/run/size-$disk"
  echo "DISK $disk $kind $iqn"
done

echo "PHASE io"
until=$(($(date +%s) + SECONDS_OF_IO))
passes=0
while [ "$(date +%s)" -lt "$until" ] || [ $passes -lt 1 ]; do
  jobs=
  for pair in $mounted; do
    kind=${pair#*=}
    # Each pass writes with checksums in every block, then reads all of it back.
    check_files "$kind" $((passes + 1)) --do_verify=1 --fsync=64 --output="/run/fio-$kind.log" &
    jobs="$jobs $!"
  done
  for job in $jobs; do wait "$job" || { cat /run/fio-*.log; fail "fio"; }; done
  passes=$((passes + 1))
  echo "PASS $passes"
  take_growth
done

echo "PHASE check"
for pair in $mounted; do
  disk=${pair%=*} kind=${pair#*=}
  grep -q " /run/mnt/$kind $kind rw" /proc/mounts || fail "$kind is no longer read-write"
  touch "/run/mnt/$kind/still-writable" || fail "cannot write to $kind"
  umount "/run/mnt/$kind" || fail "umount $kind"
  case $kind in
    ext4) e2fsck -f -n "/dev/$disk" || fail "e2fsck" ;;
    xfs) xfs_repair -n "/dev/$disk" > /run/repair.log 2>&1 || { cat /run/repair.log; fail "xfs_repair"; } ;;
  esac
  # once more over a fresh mount: what fio wrote last must still be there
  mount "/dev/$disk" "/run/mnt/$kind" || fail "mount $kind again"
  check_files "$kind" "$passes" --verify_only --output=/run/verify.log ||
    { cat /run/verify.log; fail "verification after the remount of $kind"; }
  umount "/run/mnt/$kind" || fail "second umount of $kind"
done

# Lost connections are what the test is about; an error that reached a disk or a file system is not.
dmesg | grep -E "I/O error|EXT4-fs (error|warning)|XFS.*(error|corrupt|shut)|Aborting journal|read-only|rejecting I/O" && fail "errors in dmesg"
echo "RECONNECTS $(dmesg | grep -c 'detected conn error')"
iscsiadm -m node --logoutall=all || fail "logout"
