# shellcheck shell=bash
# Checks: one line each, counted by tests/k8s/run. Sourced by lib/scenario.sh, never run.
#
#   check NAME COMMAND...              passes when the command succeeds
#   eventually SECONDS NAME COMMAND... passes when it succeeds within that time, tried again and again
#   expect NAME WANTED COMMAND...      passes when it prints exactly that
#   skipped NAME WHY                   says that something cannot be checked here
#
# A check that fails ends its scenario (`|| true` behind it goes on). A function can be a command.

verdict() { # PASS|FAIL|SKIPPED name [more]
  printf '%s %s: %s%s\n' "$1" "$SCENARIO" "$2" "${3:+ ($3)}"
  printf '%s\n' "$1" >>"$K8S_RESULTS"
}

check() { # name command...
  local name=$1 output begun status=0
  shift
  begun=$(date +%s%N)
  output=$("$@" 2>&1 </dev/null) || status=$?
  if [ $status = 0 ]; then
    verdict PASS "$name" "$(since "$begun") s"
    return
  fi
  verdict FAIL "$name" "$* ended with $status after $(since "$begun") s"
  tail -n 20 <<<"$output" | sed 's/^/    /'
  return 1
}

eventually() { # seconds name command...
  local seconds=$1 name=$2
  shift 2
  check "$name" keep_trying "$seconds" "$@"
}
keep_trying() { # seconds command...
  local until=$((SECONDS + $1)) output
  shift
  until output=$("$@" 2>&1); do
    if [ $SECONDS -ge $until ]; then
      printf 'still failing at the end of the time:\n%s\n' "$output"
      return 1
    fi
    sleep 0.5
  done
}

expect() { # name wanted command...
  local name=$1 wanted=$2
  shift 2
  check "$name" prints "$wanted" "$@"
}
prints() { # wanted command...
  local wanted=$1 output
  shift
  output=$("$@" 2>&1) || { printf 'ended with %s:\n%s\n' "$?" "$output"; return 1; }
  [ "$output" = "$wanted" ] || { printf 'wanted: %s\ngot:    %s\n' "$wanted" "$output"; return 1; }
}

skipped() { verdict SKIPPED "$1" "$2"; }

# ---- what many scenarios do and ask ----

# A namespace without anything of a former run, ready for pods.
fresh_namespace() { # namespace
  kubectl delete namespace "$1" --ignore-not-found >/dev/null
  kubectl create namespace "$1" >/dev/null
  retry 30 kubectl -n "$1" get serviceaccount default || { complain "the namespace $1 gets no service account"; return 1; }
}
namespace_is_gone() { [ -z "$(kubectl get namespace "$1" --ignore-not-found -o name)" ]; }

pod_is_ready() { # namespace pod
  [ "$(kubectl -n "$1" get pod "$2" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
pods_are_ready() { # namespace selector count: exactly so many, all ready, none on its way out
  local ready
  ready=$(kubectl -n "$1" get pods -l "$2" -o json |
    jq '[.items[] | select(.metadata.deletionTimestamp == null) | any(.status.conditions[]?; .type == "Ready" and .status == "True")]')
  [ "$(jq --argjson count "$3" 'length == $count and all' <<<"$ready")" = true ] || { echo "ready: $ready, wanted: $3"; return 1; }
}
pods_are_gone() { # namespace selector
  [ -z "$(kubectl -n "$1" get pods -l "$2" -o name)" ]
}
