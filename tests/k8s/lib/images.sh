# shellcheck shell=bash
# Container images without docker and without a registry: a root directory becomes an OCI archive of one layer. Sourced, never run.
#
# What does not change lies in the cache, named by a checksum of what it is made from:
#   pause     holds a pod            busybox    a static busybox
#   mariadb   MariaDB from Debian's packages
#   ballast   Debian's tools for file systems, with the program that the caller names; made for each cluster

readonly PAUSE_IMAGE=localhost/pause:test
readonly IMAGE_CACHE=$K8S_CACHE/images

checksum() { sha256sum | cut -c1-64; }

# Packs a root directory. With the same content the archive is the same, byte for byte.
image_pack() { # root, full reference, archive, program and its arguments...
  local root=$1 reference=$2 archive=$3 work layer config manifest entry='' word
  shift 3
  for word in "$@"; do entry+="${entry:+,}\"$word\""; done
  work=$(mktemp -d "$STATE/pack.XXXXXX")
  mkdir -p "$work/blobs/sha256"
  tar --create --file "$work/layer" --directory "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .
  layer=$(image_blob "$work" "$work/layer")
  cat >"$work/config" <<CONFIG
{"architecture":"$(dpkg --print-architecture)","os":"linux",
"config":{"Entrypoint":[$entry],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
"rootfs":{"type":"layers","diff_ids":["sha256:${layer%:*}"]}}
CONFIG
  config=$(image_blob "$work" "$work/config")
  cat >"$work/manifest" <<MANIFEST
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:${config%:*}","size":${config#*:}},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:${layer%:*}","size":${layer#*:}}]}
MANIFEST
  manifest=$(image_blob "$work" "$work/manifest")
  echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
  cat >"$work/index.json" <<INDEX
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",
"digest":"sha256:${manifest%:*}","size":${manifest#*:},
"annotations":{"io.containerd.image.name":"$reference","org.opencontainers.image.ref.name":"${reference##*:}"}}]}
INDEX
  tar --create --file "$work/archive" --directory "$work" --sort=name --owner=0 --group=0 --mtime=@0 oci-layout index.json blobs
  put_in_place "$work/archive" "$archive"
  rm -r "$work"
}
# Another run may do the same at the same time, and may look at any moment.
put_in_place() { # file or directory, where to
  local new
  new=$(mktemp --dry-run "$2.XXXXXX")
  mv "$1" "$new"
  mv --no-target-directory "$new" "$2" 2>/dev/null || rm -rf "$new"
}
image_blob() { # work directory, file: moves it to where its checksum says; prints checksum:size
  local sum size
  sum=$(checksum <"$2")
  size=$(stat --format=%s "$2")
  mv "$2" "$1/blobs/sha256/$sum"
  echo "$sum:$size"
}

# Unpacks packages and all they depend on, without installing anything anywhere: no scripts of theirs are run.
debian_root() { # root, packages...
  local root=$1 work package
  shift
  work=$(mktemp -d "$STATE/packages.XXXXXX")
  mkdir -p "$work/archives/partial"
  : >"$work/status"
  if ! debian_download "$work" "$@"; then
    # The package lists may be missing, or too old.
    apt-get -qq update || true
    debian_download "$work" "$@" || { rm -rf "$work"; return 1; }
  fi
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{tmp,run,proc,sys,dev,var/lib}
  for package in bin sbin lib lib64; do ln -sfn "usr/$package" "$root/$package"; done
  for package in "$work"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$root"
  done
  rm -rf "$work" "$root"/usr/share/{doc,man,info,locale,lintian,bug}
  chmod 1777 "$root/tmp"
  # What the packages' scripts would have made.
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  [ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
}

# The system's own list of what is installed is left out, so nothing counts as there already.
debian_download() { # work directory, packages...
  local work=$1
  shift
  apt-get -qq -o Dir::State::Status="$work/status" -o Dir::Cache::Archives="$work/archives" -o APT::Sandbox::User=root \
    -o Debug::NoLocking=1 -o APT::Install-Recommends=0 install --download-only -y "$@" >/dev/null
}

readonly DEBIAN_TOOLS="base-files base-passwd bash coreutils dash findutils grep gzip hostname libc-bin mawk procps sed tar util-linux"

root_of_pause() { # root
  cc -static -Os -o "$1/pause" "$K8S_DIR/images/pause.c"
}
root_of_busybox() { # root
  local applet
  mkdir -p "$1"/{bin,tmp,etc}
  cp "$(command -v busybox)" "$1/bin/busybox"
  for applet in $(busybox --list); do [ -e "$1/bin/$applet" ] || ln -s busybox "$1/bin/$applet"; done
  chmod 1777 "$1/tmp"
  echo 'root:x:0:0:root:/:/bin/sh' >"$1/etc/passwd"
}
root_of_mariadb() { # root
  # shellcheck disable=SC2086
  debian_root "$1" $DEBIAN_TOOLS mariadb-server-core mariadb-client-core || return 1
  install -D -m 755 "$K8S_DIR/images/mariadb.sh" "$1/usr/local/bin/run-mariadb"
}
root_of_tools() { # root
  # shellcheck disable=SC2086
  debian_root "$1" $DEBIAN_TOOLS mount e2fsprogs xfsprogs fdisk iproute2 kmod || return 1
  # Half of it would be what only xfs_scrub needs.
  rm -rf "$1"/usr/{bin,lib,share}/python3* "$1"/usr/lib/*/{perl,perl-base,gconv} "$1"/usr/share/perl* "$1"/usr/lib/*/lib{perl,icu}*
  rm -f "$1"/usr/sbin/xfs_scrub* "$1"/usr/bin/perl*
}

# The archive of an image that does not depend on this checkout's program, from the cache or made now. Prints its path.
image_cached() { # pause|busybox|mariadb
  local name=$1 archive work reference entry
  case $name in
    pause) reference=$PAUSE_IMAGE entry=/pause ;;
    busybox) reference=docker.io/library/busybox:test entry='' ;;
    mariadb) reference=docker.io/library/mariadb:test entry=/usr/local/bin/run-mariadb ;;
    *) complain "no such image: $name"; return 1 ;;
  esac
  archive=$IMAGE_CACHE/$name-$(image_recipe | checksum | cut -c1-16).tar
  if [ ! -e "$archive" ]; then
    image_forget_old "$name"
    work=$(mktemp -d "$STATE/$name.XXXXXX")
    if ! "root_of_$name" "$work" || ! image_pack "$work" "$reference" "$archive" ${entry:+"$entry"}; then
      rm -rf "$work"
      complain "cannot make the image $name"
      return 1
    fi
    rm -rf "$work"
  fi
  echo "$archive"
}
image_forget_old() { # name: what was made by an older recipe, days ago
  mkdir -p "$IMAGE_CACHE"
  find "$IMAGE_CACHE" -mindepth 1 -maxdepth 1 -name "$1-*" -mtime +2 -exec rm -rf {} +
}
image_recipe() { cat "$K8S_DIR/lib/images.sh" "$K8S_DIR"/images/* /etc/debian_version; }

# Puts an image where the nodes can read it, as STATE/images/NAME.tar. The roots of nodes see no other place.
image_provide() { # pause|busybox|mariadb
  local archive
  archive=$(image_cached "$1") || return 1
  ln -f "$archive" "$STATE/images/$1.tar" 2>/dev/null || cp "$archive" "$STATE/images/$1.tar"
}

# The Ballast image from a release program, static or linked to this system's libraries.
image_provide_ballast() { # program, reference
  local root=$STATE/ballast-root tools
  tools=$IMAGE_CACHE/tools-$(image_recipe | checksum | cut -c1-16)
  if [ ! -d "$tools" ]; then
    image_forget_old tools
    mkdir "$STATE/tools"
    root_of_tools "$STATE/tools" || return 1
    touch "$STATE/tools"
    put_in_place "$STATE/tools" "$tools"
  fi
  cp -a "$tools" "$root"
  install -D -m 755 "$1" "$root/usr/local/bin/ballast"
  strip --strip-debug "$root/usr/local/bin/ballast" 2>/dev/null || true
  image_pack "$root" "$2" "$STATE/images/ballast.tar" /usr/local/bin/ballast
  rm -rf "$root"
}

# ---- for scenarios ----

# Loads an image into nodes (all, if none is named). mariadb is made when it is asked for, for it is large.
image_load() { # name [node...]
  local name=$1 node
  shift
  [ $# -gt 0 ] || read -ra nodes <<<"$ALL_NODES"
  [ -e "$STATE/images/$name.tar" ] || image_provide "$name" || return 1
  for node in "${@:-${nodes[@]}}"; do
    node_exec "$node" ctr --address /run/containerd/containerd.sock --namespace k8s.io image import \
      "/run/ballast-k8s/images/$name.tar" >/dev/null || { complain "$node cannot load the image $name"; return 1; }
    if is_uml "$node"; then node_exec "$node" sync; fi
  done
}
