{{/*
A Job that runs one command of ballast for a hook of Helm, with the account of (list . "part"):
(dict "top" . "part" "crds" "hooks" "pre-install" "name" "..." "args" (list ...))
What it logs when it fails is shown by Helm itself from 3.18 on, and by `kubectl logs job/...` always.
*/}}
{{- define "ballast.hookJob" -}}
{{- $top := .top -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ $top.Release.Namespace }}
  labels:
    {{- include "ballast.labels" $top | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
  annotations:
    {{- include "ballast.hook" (list .hooks "5") | nindent 4 }}
    helm.sh/hook-output-log-policy: hook-failed
spec:
  # A refusal is final; one more try is for an API server that was busy.
  backoffLimit: 1
  activeDeadlineSeconds: 240
  template:
    metadata:
      labels:
        {{- include "ballast.labels" $top | nindent 8 }}
        app.kubernetes.io/component: {{ .part }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ include "ballast.serviceAccountName" (list $top .part) }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      securityContext:
        {{- include "ballast.podSecurity" $top | nindent 8 }}
      {{- with $top.Values.operator.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $top.Values.operator.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .part }}
          image: {{ include "ballast.image" $top }}
          imagePullPolicy: {{ $top.Values.image.pullPolicy }}
          command: [ballast]
          args:
            {{- toYaml .args | nindent 12 }}
          env:
            {{- include "ballast.env" $top | nindent 12 }}
          resources:
            requests: {cpu: 10m, memory: 32Mi}
            limits: {memory: 128Mi}
          securityContext:
            {{- include "ballast.containerSecurity" $top | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{/* Annotations of an object of a hook: (list "pre-install,pre-upgrade" "weight") */}}
{{- define "ballast.hook" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* The account of a hook's Job and the binding of its ClusterRole: (list . "crds" "hooks") */}}
{{- define "ballast.hookAccount" -}}
{{- $top := index . 0 -}}
{{- $part := index . 1 -}}
{{- $account := include "ballast.serviceAccountName" (list $top $part) -}}
{{- if $top.Values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $account }}
  namespace: {{ $top.Release.Namespace }}
  labels:
    {{- include "ballast.labels" $top | nindent 4 }}
  annotations:
    {{- include "ballast.hook" (list (index . 2) "1") | nindent 4 }}
    {{- with $top.Values.serviceAccount.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- with $top.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
automountServiceAccountToken: false
{{- end }}
{{- if $top.Values.rbac.create }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "ballast.fullname" $top }}-{{ $part }}
  labels:
    {{- include "ballast.labels" $top | nindent 4 }}
  annotations:
    {{- include "ballast.hook" (list (index . 2) "3") | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "ballast.fullname" $top }}-{{ $part }}
subjects:
  - kind: ServiceAccount
    name: {{ $account }}
    namespace: {{ $top.Release.Namespace }}
{{- end }}
{{- end -}}
