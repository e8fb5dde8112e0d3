# shellcheck shell=bash
# Shared by the programs that run inside a machine or a guest. Sourced, never run.
#
# Everything the harness brings lies in one place, in a machine as in a guest:
readonly HERE=/run/ballast-k8s # bin lib images config log: from outside; disk: what a power cut spares

# Gives the machine files of its own, above the system's, which it can read but not write. HERE must be there.
own_files() {
  local disk=$HERE/disk directory
  mkdir -p "$disk"/var/{cache,lib/kubelet,lib/containerd,log,spool,tmp} "$disk/tmp"
  chmod 1777 "$disk/tmp" "$disk/var/tmp"
  ln -sfn /run "$disk/var/run"
  ln -sfn /run/lock "$disk/var/lock"
  if [ ! -d "$disk/etc" ]; then
    cp -a /etc "$disk/etc.new"
    tr -d - </proc/sys/kernel/random/uuid >"$disk/etc.new/machine-id"
    # There is no name service: a query is refused at once.
    echo "nameserver 10.96.0.10" >"$disk/etc.new/resolv.conf.new"
    mv "$disk/etc.new/resolv.conf.new" "$disk/etc.new/resolv.conf"
    hostname >"$disk/etc.new/hostname"
    mv "$disk/etc.new" "$disk/etc"
  fi
  for directory in etc tmp var; do mount --bind "$disk/$directory" "/$directory"; done
  mkdir -p /run/lock /run/ballast-k8s/{pid,stopped}
}

# Runs a program in the background and runs it again when it ends, as a service manager would. It stays down while
# HERE/stopped/NAME exists.
keep() { # name command...
  local name=$1
  shift
  while :; do
    if [ ! -e "$HERE/stopped/$name" ]; then
      "$@" </dev/null >>"$HERE/log/$name.log" 2>&1 &
      echo $! >"$HERE/pid/$name"
      wait $! || true
      rm -f "$HERE/pid/$name"
    fi
    sleep 1
  done &
}

# The life of a first process: it collects whatever ends.
reap_forever() { while :; do wait -n || sleep 1; done; }

wait_for() { # seconds command...
  local tries=$(($1 * 5))
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return 1
    sleep 0.2
  done
}
