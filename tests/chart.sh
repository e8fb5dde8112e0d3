#!/usr/bin/env bash
# Checks the chart, the examples and the making of the image, without a cluster.
#
#   tests/chart.sh
#
# Needs what scripts/install-tools.sh installs (helm, kubernetes-validate); what is missing is SKIPPED. Ends with a line
# in the form of `cargo test`, which tests/run.sh adds up.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:$PWD/target/tools
readonly CHART=charts/ballast
readonly PYTHON=target/tools/kubernetes-validate/bin/python
# The oldest and the newest Kubernetes whose schemas the manifests are held against.
readonly KUBERNETES="1.25 1.36"

work=$(mktemp -d "${TMPDIR:-/tmp}/ballast-chart.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

ok() { # name command...: quiet when it succeeds
  local name=$1; shift
  if "$@" >"$work/output" 2>&1; then
    echo "test $name ... ok"
    passed=$((passed + 1))
  else
    echo "test $name ... FAILED"
    sed 's/^/    /' "$work/output"
    failed=$((failed + 1))
  fi
}
skip() { # name reason
  echo "test $1 ... SKIPPED: $2"
  skipped=$((skipped + 1))
}
refused() { # words command...: it fails and says the words
  local words=$1; shift
  if "$@" >"$work/refusal" 2>&1; then echo "not refused: $*"; return 1; fi
  grep -qF -- "$words" "$work/refusal" || { echo "refused, but without '$words':"; cat "$work/refusal"; return 1; }
}
render() { # values file: as for each version of Kubernetes, which decides about some of the objects
  local version
  for version in $KUBERNETES; do
    mkdir -p "$work/rendered/$version"
    helm template demo $CHART --namespace openebs --kube-version "$version" --values "$1" \
      >"$work/rendered/$version/$(basename "$1" -values.yaml).yaml" || return 1
  done
}
no_wildcard() { # file...: also without Python, so that a rule with all rights never slips through
  ! grep -nE "(^|[^*])\*([]\"', ]|$)" -- "$@"
}
same() { # file file
  cmp "$1" "$2" && [ -s "$1" ]
}

if command -v helm >/dev/null; then
  for values in "$CHART"/ci/*-values.yaml; do
    name=$(basename "$values" -values.yaml)
    ok "helm lint, $name" helm lint --strict $CHART --namespace openebs --values "$values"
    ok "helm template, $name" render "$values"
  done
  ok "an unknown key is refused" refused opertor helm template demo $CHART --set opertor.replicas=2
  ok "an unknown key of a part is refused" refused replica helm template demo $CHART --set operator.replica=2
  ok "a value out of range is refused" refused replicaCount helm template demo $CHART --set storageClass.replicaCount=9
  ok "no rule has a wildcard" no_wildcard "$work"/rendered/*/*.yaml
  if [ -x $PYTHON ]; then
    for version in $KUBERNETES; do
      ok "manifests against Kubernetes $version" $PYTHON tests/tools/manifests.py "$version" $CHART/crds examples "$work/rendered/$version"
    done
  else
    skip "manifests against Kubernetes' schemas" "kubernetes-validate is not installed (scripts/install-tools.sh)"
  fi
else
  skip "chart" "helm is not installed (scripts/install-tools.sh)"
fi

# Stands for the program: the image's making does not look inside.
if echo 'int main(void) { return 0; }' | gcc -static -x c -o "$work/static" - 2>"$work/output"; then
  ok "an image is made" image/build.sh --binary "$work/static" --tag example.com/ballast:1 --output "$work/1.tar"
  touch -d yesterday "$work/static"
  ok "an image is made again" image/build.sh --binary "$work/static" --tag example.com/ballast:1 --output "$work/2.tar"
  ok "the same program gives the same image" same "$work/1.tar" "$work/2.tar"
  ok "the image is whole" python3 tests/tools/image.py "$work/1.tar" example.com/ballast:1
  gcc -x c -o "$work/dynamic" - <<<'int main(void) { return 0; }'
  ok "a program that needs a loader is refused" refused "dynamic loader" image/build.sh --binary "$work/dynamic" --output "$work/3.tar"
else
  skip "image" "no static C program can be made here: $(head -n 1 "$work/output")"
fi

result=ok
[ $failed = 0 ] || result=FAILED
echo "test result: $result. $passed passed; $failed failed; $skipped ignored"
[ $failed = 0 ]
