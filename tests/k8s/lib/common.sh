# shellcheck shell=bash
# Shared by everything below tests/k8s: words to the user, bounded waiting, where things lie. Sourced, never run.
#
# STATE is the directory of one cluster. What later commands must know about it stands in STATE/env.

K8S_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly K8S_DIR
readonly K8S_CACHE=${BALLAST_K8S_CACHE:-$HOME/.cache/ballast-k8s}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin

say() { printf 'k8s: %s\n' "$*"; }
complain() { printf 'k8s: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command until it succeeds, a few times a second, for so many seconds. The command's output is dropped.
retry() { # seconds command...
  local until=$((SECONDS + $1))
  shift
  while ! "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.3
  done
}

# Says how long something took.
timed() { # what command...
  local what=$1 begun status=0
  shift
  begun=$(date +%s%N)
  "$@" || status=$?
  [ $status != 0 ] || say "$what after $(since "$begun") s"
  return $status
}
since() { # nanoseconds: how many seconds ago that was, with one digit
  local tenths=$((($(date +%s%N) - $1) / 100000000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# The settings of a cluster, for the processes that come later.
save_environment() {
  declare -p STATE ID BIN NODES UML_NODES ALL_NODES UML_MEMORY_MB UML_DISK_GB NODE_GRACE EVICT_AFTER BALLAST_IMAGE >"$STATE/env"
}
load_environment() { # state directory
  [ -r "$1/env" ] || { complain "there is no cluster in $1"; return 1; }
  # `declare` inside a function would make local variables.
  eval "$(sed 's/^declare -[a-z-]* /declare -g /' "$1/env")"
}
