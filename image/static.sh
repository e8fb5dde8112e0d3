#!/usr/bin/env bash
# Builds the static program for the image and prints its path.
#
#   image/static.sh [TARGET]      for example aarch64-unknown-linux-gnu; default: this machine's
#
# glibc and not musl, linked statically (a static-pie): musl's allocator has one lock for all threads, and pools and
# targets allocate on all of them. What static glibc cannot do (load NSS modules, iconv, locales) Ballast does not use;
# names are resolved by the files and DNS resolvers that glibc has built in since 2.34.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
# --target also on the machine itself: without it the flags would reach build scripts and procedural macros, which
# cannot be static.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=debuginfo \
  cargo build --release --locked --package ballast --target "$target" >&2
program=${CARGO_TARGET_DIR:-target}/$target/release/ballast
if readelf --program-headers "$program" | grep -q INTERP; then
  echo "$program needs a dynamic loader, which the image does not have" >&2
  exit 1
fi
echo "$program"
