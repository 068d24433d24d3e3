{{/* From values to the environment of a container. Everything ends in one map by name, so that no name comes twice:
Helm 4 applies on the server's side, where a second one is refused. */}}

{{/* A value as text. Helm reads numbers as floats, and would print 5000000 as 5e+06. */}}
{{- define "headrace.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* The settings of one learner, JSON: the chart's, the shard's own over them. Takes root and shard. */}}
{{- define "headrace.settings" -}}
{{- $settings := mergeOverwrite (deepCopy .root.Values.settings) (default (dict) .shard.settings) -}}
{{- with .shard -}}
{{- if .name -}}
{{- $prefix := default "headrace" $settings.HEADRACE_STORE_PREFIX -}}
{{- $_ := set $settings "HEADRACE_KAFKA_TOPIC" .topic -}}
{{- $_ := set $settings "HEADRACE_STORE_PREFIX" (default (printf "%s/%s" $prefix .name) .prefix) -}}
{{- $_ := set $settings "HEADRACE_KAFKA_GROUP" (default (printf "%s-%s" (default "headrace" $settings.HEADRACE_KAFKA_GROUP) .name) .group) -}}
{{- with .lineage }}{{ $_ := set $settings "HEADRACE_STORE_LINEAGE" . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $settings -}}
{{- end -}}

{{/* Where a secret lies: "Secret/key", or nothing where it is not given. Takes root, name, and maybe own (the name of the
Secret that the chart makes). */}}
{{- define "headrace.secretRef" -}}
{{- $secret := index .root.Values.secrets .name | default dict -}}
{{- if $secret.existingSecret -}}
{{ $secret.existingSecret }}/{{ default .name $secret.key }}
{{- else if $secret.value -}}
{{ default (include "headrace.fullname" .root) .own }}/{{ .name }}
{{- end -}}
{{- end -}}

{{/* Whether a purpose has to do with copies: "true", or nothing. Takes root and maybe purpose. */}}
{{- define "headrace.copies" -}}
{{- $purpose := default "" .purpose -}}
{{- if or (eq $purpose "backup") (and (eq $purpose "doctor") .root.Values.cronJobs.backup.enabled) -}}true{{- end -}}
{{- end -}}

{{/* Which secrets a purpose needs: least of all for each. */}}
{{- define "headrace.secretNames" -}}
HEADRACE_STORE_ACCESS_KEY HEADRACE_STORE_SECRET_KEY
{{- if include "headrace.copies" . }} HEADRACE_BACKUP_ACCESS_KEY HEADRACE_BACKUP_SECRET_KEY{{ end }}
{{- if has .purpose (list "run" "doctor") }} HEADRACE_KAFKA_SASL_PASSWORD HEADRACE_KAFKA_SSL_KEY_PASSWORD{{ end }}
{{- if and .root.Values.admin.enabled (has .purpose (list "run" "doctor")) }} HEADRACE_ADMIN_TOKEN{{ end }}
{{- if and (eq .root.Values.ray.mode "external") (has .purpose (list "run" "doctor")) }} RAY_AUTH_TOKEN{{ end }}
{{- end -}}

{{/* The environment as a list. Takes root, shard, purpose (run, doctor, store, backup) and maybe own.
`store`, `backup`: jobs that need the store alone; Kafka's login would be refused without its password. Where copies go
to is told to who makes them, and to the doctor, and to nobody else. */}}
{{- define "headrace.env" -}}
{{- $root := .root -}}
{{- $env := dict -}}
{{- /* Whatever writes, writes to /tmp: the root file system is read-only. */ -}}
{{- $_ := set $env "HOME" (dict "value" "/tmp") -}}
{{- $_ := set $env "TMPDIR" (dict "value" "/tmp") -}}
{{- /* The image fills it with its own kernels. Never on a volume that outlives the image: old ones would be in the way. */ -}}
{{- $_ := set $env "NUMBA_CACHE_DIR" (dict "value" "/tmp/headrace-kernels") -}}
{{- range $name, $value := include "headrace.settings" . | fromJson -}}
{{- $kafka := and (has $.purpose (list "store" "backup")) (hasPrefix "HEADRACE_KAFKA_" $name) -}}
{{- $backup := and (not (include "headrace.copies" $)) (hasPrefix "HEADRACE_BACKUP_" $name) -}}
{{- if not (or $kafka $backup (eq (toString $value) "") (kindIs "invalid" $value)) -}}
{{- $_ := set $env $name (dict "value" (include "headrace.text" $value)) -}}
{{- end -}}
{{- end -}}
{{- if has .purpose (list "run" "doctor") -}}
{{- $_ := set $env "HEADRACE_HTTP_HOST" (dict "value" "0.0.0.0") -}}
{{- if eq $root.Values.ray.mode "external" -}}
{{- $_ := set $env "HEADRACE_RAY_ADDRESS" (dict "value" $root.Values.ray.address) -}}
{{- if include "headrace.secretRef" (dict "root" $root "name" "RAY_AUTH_TOKEN") -}}
{{- $_ := set $env "RAY_AUTH_MODE" (dict "value" "token") -}}
{{- end -}}
{{- else if and (eq $root.Values.ray.mode "kuberay") (eq .purpose "run") -}}
{{- $cluster := include "headrace.rayCluster" $root -}}
{{- $_ := set $env "HEADRACE_RAY_ADDRESS" (dict "value" (printf "ray://%s-head-svc:10001" $cluster)) -}}
{{- $_ := set $env "RAY_AUTH_MODE" (dict "value" "token") -}}
{{- $_ := set $env "RAY_AUTH_TOKEN" (dict "valueFrom" (dict "secretKeyRef" (dict "name" $cluster "key" "auth_token"))) -}}
{{- end -}}
{{- range $setting, $file := include "headrace.tlsFiles" $root | fromJson -}}
{{- $_ := set $env $setting (dict "value" $file) -}}
{{- end -}}
{{- else -}}
{{- with index (include "headrace.tlsFiles" $root | fromJson) "HEADRACE_STORE_CA_FILE" -}}
{{- $_ := set $env "HEADRACE_STORE_CA_FILE" (dict "value" .) -}}
{{- end -}}
{{- end -}}
{{- $copyCa := $root.Values.tls.backupCa -}}
{{- if and (include "headrace.copies" .) (or $copyCa.existingSecret $copyCa.existingConfigMap) -}}
{{- $_ := set $env "HEADRACE_BACKUP_CA_FILE" (dict "value" (printf "/etc/headrace/backup-ca/%s" $copyCa.key)) -}}
{{- end -}}
{{- if and $root.Values.admin.enabled (has .purpose (list "run" "doctor")) -}}
{{- $_ := set $env "HEADRACE_ADMIN_HOST" (dict "value" "0.0.0.0") -}}
{{- end -}}
{{- range $name := include "headrace.secretNames" . | splitList " " -}}
{{- with include "headrace.secretRef" (dict "root" $root "name" $name "own" $.own) -}}
{{- $parts := splitList "/" . -}}
{{- $_ := set $env $name (dict "valueFrom" (dict "secretKeyRef" (dict "name" (first $parts) "key" (last $parts)))) -}}
{{- end -}}
{{- end -}}
{{- include "headrace.envList" (dict "root" $root "env" $env) -}}
{{- end -}}

{{/* Variables and the operator's own over them, as a list. Takes root and env. */}}
{{- define "headrace.envList" -}}
{{- $env := .env -}}
{{- range .root.Values.extraEnv -}}
{{- $_ := set $env .name (omit . "name") -}}
{{- end -}}
{{- range $name := keys $env | sortAlpha }}
- name: {{ $name }}
  {{- toYaml (index $env $name) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Settings that name a mounted certificate, JSON. Takes root. */}}
{{- define "headrace.tlsFiles" -}}
{{- $files := dict -}}
{{- with .Values.tls -}}
{{- if or .storeCa.existingSecret .storeCa.existingConfigMap -}}
{{- $_ := set $files "HEADRACE_STORE_CA_FILE" (printf "/etc/headrace/store-ca/%s" .storeCa.key) -}}
{{- end -}}
{{- if or .kafkaCa.existingSecret .kafkaCa.existingConfigMap -}}
{{- $_ := set $files "HEADRACE_KAFKA_SSL_CA_FILE" (printf "/etc/headrace/kafka-ca/%s" .kafkaCa.key) -}}
{{- end -}}
{{- if .kafkaClient.existingSecret -}}
{{- $_ := set $files "HEADRACE_KAFKA_SSL_CERT_FILE" (printf "/etc/headrace/kafka-client/%s" .kafkaClient.certKey) -}}
{{- $_ := set $files "HEADRACE_KAFKA_SSL_KEY_FILE" (printf "/etc/headrace/kafka-client/%s" .kafkaClient.keyKey) -}}
{{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* A size in bytes, of Headrace (8MiB) or of Kubernetes (8Mi). */}}
{{- define "headrace.bytes" -}}
{{- $text := include "headrace.text" . | trim -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexReplaceAll "^[0-9.]+ *" $text "" | lower | trimSuffix "b" -}}
{{- $factors := dict "" 1 "k" 1000 "m" 1000000 "g" 1000000000 "t" 1000000000000 "ki" 1024 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 -}}
{{- mulf $number (get $factors $unit | default 1) | int64 -}}
{{- end -}}

{{/* Secrets given by value, in base64, JSON. Takes root. */}}
{{- define "headrace.ownSecrets" -}}
{{- $own := dict -}}
{{- range $name, $secret := .Values.secrets -}}
{{- if and $secret.value (not $secret.existingSecret) -}}
{{- $_ := set $own $name (b64enc $secret.value) -}}
{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL. Takes root and shard. */}}
{{- define "headrace.grace" -}}
{{- $settings := include "headrace.settings" . | fromJson -}}
{{- $drain := default 25 $settings.HEADRACE_STREAM_DRAIN_SECONDS | float64 | ceil | int -}}
{{- default (add $drain 20) .root.Values.terminationGracePeriodSeconds | int -}}
{{- end -}}
