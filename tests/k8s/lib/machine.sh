# shellcheck shell=bash
# Machines: sets of processes with mounts, a name, a network and process numbers of their own. Sourced, never run.
#
# The control plane is one, and every node is one (that of a User-Mode Linux node holds its kernel). When the first process
# of a machine is killed, the kernel kills all others at once and drops the mounts: a power cut. STATE/NAME/disk stays.
#
#   STATE/NAME/pid       the first process, as this system numbers it; STATE/NAME/parent the one that waits for it
#   STATE/NAME/disk      /var, /etc and /tmp of the machine: what a power cut spares
#   STATE/NAME/config    what its programs are told (lib/inside/*.sh read it)
#   STATE/NAME/log       one file for each program

machine_boot() { # name program...: boots it; the program (in lib/inside) runs as its first process
  local name=$1 directory=$STATE/$1
  shift
  mkdir -p "$directory"/{disk,config,log}
  rm -f "$directory"/{pid,log/booted}
  (
    exec setsid nsenter --net="/run/netns/$(namespace_of "$name")" \
      env -i PATH="$PATH" HOME=/root LC_ALL=C.UTF-8 \
      unshare --mount --propagation private --uts --ipc --pid --fork --kill-child \
      bash "$K8S_DIR/lib/inside/machine.sh" "$name" "$directory" "$BIN" "$STATE/images" "$@" \
      </dev/null >>"$directory/log/boot.log" 2>&1 7>&- 8>&-
  ) &
  echo $! >"$directory/parent"
  disown
  retry 20 test -s "$directory/log/booted" || { complain "$name does not boot: $(tail -n 5 "$directory/log/boot.log")"; return 1; }
}

machine_pid() { [ -s "$STATE/$1/pid" ] && cat "$STATE/$1/pid"; }
machine_runs() { local pid; pid=$(machine_pid "$1") && [ -d "/proc/$pid" ]; }
machine_is_gone() { ! machine_runs "$1"; }

# Runs a command inside. Not for a User-Mode Linux guest, whose processes nobody outside can see: see node_exec.
machine_exec() { # name command...
  local pid
  pid=$(machine_pid "$1") || { complain "$1 is not running"; return 1; }
  shift
  nsenter --target "$pid" --mount --uts --ipc --net --pid --wd=/ -- "$@"
}

machine_kill() { # name: cuts its power
  [ -e "$STATE/$1/parent" ] || return 0
  # The parent does nothing but wait; the first process dies with it also when it has not yet said its number.
  kill -KILL "$(cat "$STATE/$1/parent")" "$(machine_pid "$1")" 2>/dev/null || true
  retry 30 machine_is_gone "$1" || { complain "$1 (process $(machine_pid "$1")) does not die"; return 1; }
  rm -f "$STATE/$1"/{pid,parent}
}

machine_processes() { # name: all of them, as this system numbers them
  local own process
  own=$(readlink "/proc/$(machine_pid "$1")/ns/pid") || return 0
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/pid" 2>/dev/null)" != "$own" ] || echo "${process#/proc/}"
  done
}

# Stops and continues every process: a machine that hangs. Traced ones belong to a guest's kernel, which stands still itself.
machine_signal_all() { # name signal
  local process
  for process in $(machine_processes "$1"); do
    grep -q '^TracerPid:[[:space:]]0$' "/proc/$process/status" 2>/dev/null || continue
    kill "-$2" "$process" 2>/dev/null || true
  done
}
machine_freeze() { machine_signal_all "$1" STOP; machine_signal_all "$1" STOP; }
machine_thaw() { machine_signal_all "$1" CONT; }
