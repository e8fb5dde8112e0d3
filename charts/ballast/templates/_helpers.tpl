{{/* What the names of all objects begin with. */}}
{{- define "ballast.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "ballast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The account of a part: (list . "ndm") */}}
{{- define "ballast.serviceAccountName" -}}
{{- $top := index . 0 -}}
{{- default (include "ballast.fullname" $top) $top.Values.serviceAccount.name }}-{{ index . 1 -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "ballast.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "ballast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: ballast
openebs.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* What a workload finds its pods by, which can never change: (list . "ndm") */}}
{{- define "ballast.selectorLabels" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ include "ballast.name" $top }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The labels by which cStor's users find the pods of a part: (list "component" "name of the component") */}}
{{- define "ballast.cstorLabels" -}}
component: {{ index . 0 }}
name: {{ index . 1 }}
openebs.io/component-name: {{ index . 1 }}
{{- end -}}

{{- define "ballast.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* A whole number that was written with or without quotes. YAML's numbers are floating point here. */}}
{{- define "ballast.number" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ int64 . }}{{ end -}}
{{- end -}}

{{/* Options that all parts know. */}}
{{- define "ballast.logArgs" -}}
- --log-level={{ .Values.logLevel }}
- --log-format={{ .Values.logFormat }}
{{- end -}}

{{/* Where a part runs and who it is. */}}
{{- define "ballast.env" -}}
- name: NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end -}}

{{/* For pods that touch nothing but the API. */}}
{{- define "ballast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "ballast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the pods of a Deployment go: (list . "operator" .Values.operator) */}}
{{- define "ballast.placement" -}}
{{- $top := index . 0 -}}
{{- $values := index . 2 -}}
affinity:
{{- if $values.affinity }}
  {{- toYaml $values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "ballast.selectorLabels" (list $top (index . 1)) | nindent 14 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Probes of a part, where its values have them. */}}
{{- define "ballast.probes" -}}
{{- with .livenessProbe }}
livenessProbe:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .readinessProbe }}
readinessProbe:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "true" when the default sparse pool is wanted, under its new name or its old one. */}}
{{- define "ballast.sparsePool" -}}
{{- if or .Values.sparsePool.install (eq (toString (dig "sparse" "enabled" "false" .Values.apiserver)) "true") }}true{{ end -}}
{{- end -}}

{{/* Keys of the values that have no effect, for NOTES. */}}
{{- define "ballast.ignored" -}}
{{- $ignored := list -}}
{{- range $key := list "apiserver" "localprovisioner" "snapshotOperator" "webhook" "jiva" "release" "cstor" "policies" -}}
{{- $value := get $.Values $key -}}
{{- if eq $key "apiserver" }}{{ $value = omit $value "sparse" }}{{ end -}}
{{- if $value }}{{ $ignored = append $ignored $key }}{{ end -}}
{{- end -}}
{{- range $part := list "ndm" "provisioner" -}}
{{- range $key := list "image" "imageTag" "healthCheck" -}}
{{- if hasKey (get $.Values $part) $key }}{{ $ignored = append $ignored (printf "%s.%s" $part $key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- join ", " $ignored -}}
{{- end -}}
