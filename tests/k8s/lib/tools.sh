# shellcheck shell=bash
# The Kubernetes programs and helm, built from their modules (tools/) and kept outside the checkout. Sourced, never run.

readonly TOOL_NAMES="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl helm"

# Why nothing can be run here, if so.
tools_lacking() {
  local program
  [ "$(id -u)" = 0 ] || { echo "not root (namespaces, mounts and control groups are needed)"; return; }
  have go || { echo "no Go toolchain: the Kubernetes programs are built from their modules"; return; }
  for program in etcd containerd ctr runc iptables ip nsenter unshare openssl cc busybox apt-get dpkg-deb mkfs.ext4 sysctl; do
    have $program || { echo "$program is not installed (scripts/install-tools.sh --for k8s)"; return; }
  done
  [ -x /usr/lib/cni/bridge ] || echo "no CNI plugins in /usr/lib/cni (scripts/install-tools.sh --for k8s)"
}

tools_directory() { # the same sources and the same compiler make the same programs
  local modules=$K8S_DIR/tools
  echo "$K8S_CACHE/$({ cat "$modules"/*/go.mod "$modules"/*/go.sum; go version; } | sha256sum | cut -c1-16)"
}
tools_complete() { # directory
  local name
  for name in $TOOL_NAMES; do [ -x "$1/$name" ] || return 1; done
}

# Builds what is missing, one module at a time. Sets BIN. Some twenty minutes on two processors the first time.
tools_build() {
  local minor version flags flag begun
  BIN=$(tools_directory)
  tools_complete "$BIN" && return
  begun=$(date +%s%N)
  mkdir -p "$BIN"
  # Two builds at once would take the time of both.
  exec 9>"$BIN/lock"
  flock 9
  version=$(cd "$K8S_DIR/tools/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes) || return 1
  minor=${version#v1.}
  minor=${minor%%.*}
  # Without these the programs call themselves v0.0.0, and refuse to work with one another.
  flags="-s -w"
  for flag in gitVersion="$version" gitMajor=1 gitMinor="$minor"; do flags+=" -X k8s.io/component-base/version.$flag"; done
  say "building Kubernetes $version (once; some twenty minutes on two processors)"
  build_module kubernetes "$flags" || return 1
  say "building helm"
  build_module helm "-s -w" || return 1
  tools_complete "$BIN" || { complain "the build left something out of $BIN"; return 1; }
  say "programs built after $(since "$begun") s"
}

# One program after another, so that what was done stays done when the build is interrupted.
build_module() { # module below tools/, linker flags
  local package name
  for package in $(cd "$K8S_DIR/tools/$1" && go list tool); do
    name=${package##*/}
    [ ! -x "$BIN/$name" ] || continue
    (
      cd "$K8S_DIR/tools/$1" && CGO_ENABLED=0 nice -n 19 go build -p "${GO_PARALLEL:-2}" -trimpath -ldflags "$2" -o "$BIN/$name.new" "$package"
    ) || return 1
    mv "$BIN/$name.new" "$BIN/$name"
    say "built $name"
  done
}
