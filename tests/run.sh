#!/usr/bin/env bash
# Passes all tests: installs what is missing, builds, checks style, licences and documentation, runs every test.
# The quick checks come first. Ends with one line that sums up everything: N passed, N failed, N skipped.
#
#   tests/run.sh              all of it (bounded by LIMIT_MINUTES, 60)
#   tests/run.sh --quick      without the whole-system tests
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PATH=$HOME/.cargo/bin:$PATH

quick=
case ${1:-} in
  '') ;;
  --quick) quick=1 ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

readonly DEADLINE=$(($(date +%s) + ${LIMIT_MINUTES:-60} * 60 - 60))
log=$(mktemp "${TMPDIR:-/tmp}/ballast-tests.XXXXXX")
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

finish() {
  echo
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit
}

within_limit() { # command...
  local left=$((DEADLINE - $(date +%s)))
  [ $left -gt 0 ] || { echo "out of time: LIMIT_MINUTES=${LIMIT_MINUTES:-60} are over" >&2; return 124; }
  timeout --kill-after=60 "$left" "$@"
}

check() { # name command...: one check, which ends the run when it fails
  local name=$1; shift
  echo "== $name"
  if within_limit "$@"; then
    passed=$((passed + 1))
  else
    echo "== $name FAILED: $*" >&2
    failed=$((failed + 1))
    finish
  fi
}

tests() { # name command...: a run of tests, whose results are added up
  local name=$1 status counts; shift
  echo "== $name"
  within_limit "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  counts=$(awk '/^test result:/ { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i
    if ($(i + 1) ~ /^ignored/) s += $i } } END { print p + 0, f + 0, s + 0 }' "$log")
  read -r p f s <<<"$counts"
  # A run that ended badly without naming a failed test (it did not compile, a test program crashed) is a failure too.
  if [ "$status" != 0 ] && [ "$f" = 0 ]; then f=1; fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  if [ "$f" != 0 ]; then
    echo "== $name FAILED" >&2
    finish
  fi
}

licences() {
  if ! command -v cargo-deny >/dev/null; then
    echo "licences and sources: SKIPPED: cargo-deny is not installed (scripts/install-tools.sh)"
    skipped=$((skipped + 1))
    return
  fi
  check "licences and sources" cargo deny check licenses bans sources
  # The advisories come over the network, which a test must not need.
  if cargo deny fetch db >/dev/null 2>&1; then
    check "advisories" cargo deny check advisories
  else
    echo "advisories: SKIPPED: the database cannot be fetched"
    skipped=$((skipped + 1))
  fi
}

scripts/install-tools.sh --for test || { failed=1; finish; }
check "format" cargo fmt --all --check
licences
tests "chart, examples and image" tests/chart.sh
check "clippy" cargo clippy --release --workspace --all-targets -- -D warnings
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --quiet
check "build" cargo build --release --workspace
tests "unit and integration tests" cargo test --release --workspace --exclude ballast-tests --no-fail-fast
[ -n "$quick" ] || tests "whole-system tests" cargo test --release -p ballast-tests --no-fail-fast
finish
