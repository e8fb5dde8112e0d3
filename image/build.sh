#!/usr/bin/env bash
# Makes the container image without docker: one layer with one program, the same bytes for the same program.
#
#   image/build.sh [--binary PROGRAM] [--tag NAME:TAG] [--output FILE.tar]
#
# PROGRAM is a static one; without it image/static.sh builds it. FILE is an OCI image layout and a docker archive in one,
# so all of these take it:
#   ctr -n k8s.io images import FILE.tar        docker load -i FILE.tar
#   podman load -i FILE.tar                     skopeo copy oci-archive:FILE.tar docker://...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | sed -n 1p)
binary='' tag=ballast:$version output=ballast-image.tar
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=${2:?--binary needs a path}; shift 2 ;;
    --tag) tag=${2:?--tag needs NAME:TAG}; shift 2 ;;
    --output) output=${2:?--output needs a path}; shift 2 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown argument: $1 (try --help)" >&2; exit 2 ;;
  esac
done
case $tag in *:*) ;; *) echo "--tag $tag has no tag: write NAME:TAG" >&2; exit 2 ;; esac
[ -n "$binary" ] || binary=$("$root/image/static.sh")

# Bytes 18 and 19 of an ELF file name the machine (System V gABI, e_machine).
case $(od -An -tx1 -j18 -N2 "$binary" | tr -d ' ') in
  3e00) architecture=amd64 ;;
  b700) architecture=arm64 ;;
  *) echo "$binary is no program for x86-64 or AArch64" >&2; exit 1 ;;
esac
if readelf --program-headers "$binary" | grep -q INTERP; then
  echo "$binary needs a dynamic loader, which the image does not have: build it with image/static.sh" >&2
  exit 1
fi

# containerd and Kubernetes know images by their full name.
case ${tag%%/*} in
  "$tag") full=docker.io/library/$tag ;;
  *.* | *:* | localhost) full=$tag ;;
  *) full=docker.io/$tag ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/ballast-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/image/blobs/sha256"

archive() { # directory: a tar of all that is in it, independent of time and user
  local names=("$1"/*)
  tar --create --directory "$1" --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
    -- "${names[@]##*/}"
}
put() { # file: moves it among the blobs; sets digest and size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$work/image/blobs/sha256/$digest"
}

(umask 022 && install -D -m 755 "$binary" "$work/layer/usr/local/bin/ballast")
archive "$work/layer" >"$work/blob"
put "$work/blob"
layer=$digest layer_size=$size

cat >"$work/blob" <<JSON
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z","config":{"User":"65534:65534","Env":["PATH=/usr/local/bin"],"Entrypoint":["/usr/local/bin/ballast"],"Labels":{"org.opencontainers.image.title":"ballast","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"image/build.sh"}]}
JSON
put "$work/blob"
config=$digest config_size=$size

cat >"$work/blob" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$layer","size":$layer_size}]}
JSON
put "$work/blob"

echo '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
cat >"$work/image/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$digest","size":$size,"platform":{"architecture":"$architecture","os":"linux"},"annotations":{"io.containerd.image.name":"$full","org.opencontainers.image.ref.name":"${full##*:}"}}]}
JSON
# What docker load reads.
cat >"$work/image/manifest.json" <<JSON
[{"Config":"blobs/sha256/$config","RepoTags":["$tag"],"Layers":["blobs/sha256/$layer"]}]
JSON
archive "$work/image" >"$output"
echo "$output: $full, $architecture, sha256:$digest"
