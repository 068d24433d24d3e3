{{/* Names and labels. What selectors are made of must never change: Kubernetes refuses such an upgrade. */}}

{{- define "headrace.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- /* 36: a shard's name (15) still fits behind it into the 52 that a StatefulSet's or a CronJob's name may have. */ -}}
{{- default $own .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{/* A learner's name. Takes root and shard. */}}
{{- define "headrace.learner" -}}
{{- $name := include "headrace.fullname" .root -}}
{{- ternary (printf "%s-%s" $name .shard.name) $name (ne .shard.name "") -}}
{{- end -}}

{{/* A CronJob's name, which may have 52 letters. Takes root, shard and job. */}}
{{- define "headrace.cronName" -}}
{{- $name := printf "%s-%s" (include "headrace.learner" .) .job -}}
{{- ternary $name (printf "%s-%s" (trunc 43 $name) (sha256sum $name | trunc 8)) (le (len $name) 52) -}}
{{- end -}}

{{/* What tells this release's objects from others'. Never change it. Takes root. */}}
{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What tells one component, and one learner, from others. Never change it. Takes root, component, and maybe shard. */}}
{{- define "headrace.componentSelector" -}}
{{ include "headrace.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .shard }}
headrace/shard: {{ default "main" .name }}
{{- end }}
{{- end -}}

{{/* All labels of an object. Takes what componentSelector takes. */}}
{{- define "headrace.labels" -}}
{{ include "headrace.componentSelector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: headrace
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of a pod: what selects it, and the operator's labels, which cannot take that from it; annotations, the
operator's over the chart's. A pod that is neither a learner's nor Ray's is a job's. Takes what componentSelector takes, and
maybe annotations. */}}
{{- define "headrace.podMetadata" -}}
{{- $values := .root.Values -}}
{{- $job := not (has .component (list "learner" "ray")) -}}
labels:
  {{- merge (include "headrace.componentSelector" . | fromYaml) (ternary $values.jobPodLabels $values.podLabels $job) | toYaml | nindent 2 }}
{{- with merge (dict) (ternary $values.jobPodAnnotations $values.podAnnotations $job) (default (dict) .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Name, namespace, labels and annotations of an object. Takes root, name, component, maybe shard, annotations, labels. */}}
{{- define "headrace.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- /* What selectors ask for first: no value may take it. */}}
  {{- merge (include "headrace.componentSelector" . | fromYaml) (default (dict) .labels) (include "headrace.labels" . | fromYaml) | toYaml | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "headrace.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headrace.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "headrace.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* The learners: the shards, or one without a name. JSON, for fromJsonArray. */}}
{{- define "headrace.shards" -}}
{{- toJson (default (list (dict "name" "")) .Values.shards) -}}
{{- end -}}

{{/* Whether something of kube-prometheus-stack is wanted: "true" or "". Takes root and enabled (auto, true, false). */}}
{{- define "headrace.monitored" -}}
{{- $wanted := toString .enabled -}}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") (.root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
true
{{- end -}}
{{- end -}}

{{- define "headrace.rayCluster" -}}
{{ include "headrace.fullname" . }}-ray
{{- end -}}
