# shellcheck shell=bash
# Certificates, one set for every cluster, made with openssl. Sourced, never run.
#
# One authority signs everything: in a cluster that lives for minutes in namespaces of its own more would prove nothing.

pki_make_authority() {
  local pki=$STATE/pki
  mkdir -p "$pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=ballast-test-cluster \
    -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$pki/service-accounts.key" 2048 2>/dev/null
  openssl rsa -in "$pki/service-accounts.key" -pubout -out "$pki/service-accounts.pub" 2>/dev/null
}

# The user is the common name, the groups are the organisations: that is how Kubernetes reads a client's certificate.
pki_make_certificate() { # file user group [subject alternative names]
  local pki=$STATE/pki file=$1 user=$2 group=$3 names=${4:-}
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=$group/CN=$user" \
    -keyout "$pki/$file.key" -out "$pki/$file.csr" 2>/dev/null
  {
    echo "extendedKeyUsage=serverAuth,clientAuth"
    [ -z "$names" ] || echo "subjectAltName=$names"
  } >"$pki/$file.extensions"
  openssl x509 -req -in "$pki/$file.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 30 \
    -extfile "$pki/$file.extensions" -out "$pki/$file.crt" 2>/dev/null
}

# A kubeconfig with everything in it, so that it can be used wherever it is put.
pki_make_kubeconfig() { # certificate's file, kubeconfig to write
  local pki=$STATE/pki
  cat >"$2" <<KUBECONFIG
apiVersion: v1
kind: Config
current-context: test
clusters:
- name: test
  cluster:
    server: https://$CONTROL_ADDRESS:6443
    certificate-authority-data: $(base64 -w0 <"$pki/ca.crt")
users:
- name: test
  user:
    client-certificate-data: $(base64 -w0 <"$pki/$1.crt")
    client-key-data: $(base64 -w0 <"$pki/$1.key")
contexts:
- name: test
  context: {cluster: test, user: test}
KUBECONFIG
}
