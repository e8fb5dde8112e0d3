#!/usr/bin/env bash
# The control plane: etcd, API server, controller manager, scheduler. First process of the machine `control`.
set -euo pipefail
source "$(dirname "$0")/common.sh"
source "$HERE/config/settings"
readonly PKI=$HERE/config/pki

# The database lives in memory: it is never asked to survive its machine, and a flush for each change is slow.
keep etcd etcd --name control --data-dir /run/etcd --quota-backend-bytes 268435456 --log-level warn \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
  --initial-cluster control=http://127.0.0.1:2380

keep kube-apiserver "$HERE/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
  --advertise-address="$CONTROL_ADDRESS" --secure-port=6443 --service-cluster-ip-range="$SERVICE_RANGE" \
  --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
  --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --kubelet-client-certificate="$PKI/apiserver-to-kubelet.crt" --kubelet-client-key="$PKI/apiserver-to-kubelet.key" \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$PKI/service-accounts.pub" \
  --service-account-signing-key-file="$PKI/service-accounts.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --default-not-ready-toleration-seconds="$EVICT_AFTER" --default-unreachable-toleration-seconds="$EVICT_AFTER" \
  --profiling=false

keep kube-controller-manager "$HERE/bin/kube-controller-manager" --kubeconfig="$HERE/config/controller-manager.kubeconfig" \
  --authentication-kubeconfig="$HERE/config/controller-manager.kubeconfig" \
  --authorization-kubeconfig="$HERE/config/controller-manager.kubeconfig" \
  --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true --profiling=false \
  --service-account-private-key-file="$PKI/service-accounts.key" --root-ca-file="$PKI/ca.crt" \
  --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
  --node-monitor-period=2s --node-monitor-grace-period="${NODE_GRACE}s"

keep kube-scheduler "$HERE/bin/kube-scheduler" --kubeconfig="$HERE/config/scheduler.kubeconfig" \
  --authentication-kubeconfig="$HERE/config/scheduler.kubeconfig" \
  --authorization-kubeconfig="$HERE/config/scheduler.kubeconfig" \
  --bind-address=127.0.0.1 --leader-elect=false --profiling=false

reap_forever
