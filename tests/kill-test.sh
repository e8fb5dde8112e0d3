#!/usr/bin/env bash
# The long kill test: half an hour of random kill -9 under the checked load.
#
#   tests/kill-test.sh                                     a new seed, printed at the start
#   KILL_SEED=4711 KILL_SECONDS=600 tests/kill-test.sh     that seed again, for ten minutes
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/install-tools.sh --for test
export KILL_SECONDS=${KILL_SECONDS:-1800}
cargo build --release -p ballast
exec cargo test --release -p ballast-tests --test kill_test -- answered_writes_survive_kills
