#!/usr/bin/env bash
# Installs what is missing, builds the release program and runs `ballast up` in the foreground.
#
#   scripts/run.sh [arguments of `ballast up`]
#
# The data directory is ./ballast-data below the current directory unless --data-dir or BALLAST_DATA_DIR says otherwise.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

"$root/scripts/install-tools.sh" --for run
# A toolchain that was installed just now is not on this shell's PATH yet.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
cargo build --release --locked --package ballast --manifest-path "$root/Cargo.toml"
exec "${CARGO_TARGET_DIR:-$root/target}/release/ballast" up "$@"
