{{/* What values.schema.json cannot see: values that are right one by one and wrong together. All are said at once, each
with the key and the remedy. */}}

{{- define "headrace.checks" -}}
{{- $problems := list -}}
{{- range list "settings" "secrets" "ray" "store" "shards" "times" "env" "names" -}}
{{- $problems = concat $problems (include (printf "headrace.checks.%s" .) $ | fromJsonArray) -}}
{{- end -}}
{{- /* Only when the rest is right: what is looked for may be named wrongly. */ -}}
{{- if not $problems -}}
{{- $problems = include "headrace.checks.cluster" . | fromJsonArray -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nThe values cannot work:\n- %s\n" (join "\n- " $problems)) -}}
{{- end -}}
{{- end -}}

{{/* Settings that the chart makes, and by which value. JSON. */}}
{{- define "headrace.managed" -}}
{{- toJson (dict
  "HEADRACE_RAY_ADDRESS" "say ray.mode and ray.address"
  "HEADRACE_HTTP_ENABLED" "the probes need the HTTP door, so it is always open; networkPolicy.httpFrom says who may reach it"
  "HEADRACE_HTTP_HOST" "a pod listens on all its addresses; networkPolicy.httpFrom says who may reach it"
  "HEADRACE_HTTP_PORT" "a pod listens on 8080; the Service's port is service.port"
  "HEADRACE_ADMIN_HOST" "say admin.enabled; networkPolicy.adminFrom says who may reach it"
  "HEADRACE_ADMIN_PORT" "a pod listens on 8081; say admin.enabled"
  "HEADRACE_TRAIN_INCREMENTAL" "each of cronJobs.incremental and cronJobs.full says by itself which it is"
) -}}
{{- end -}}

{{- define "headrace.checks.settings" -}}
{{- $problems := list -}}
{{- $managed := include "headrace.managed" . | fromJson -}}
{{- $places := dict "settings" .Values.settings -}}
{{- range .Values.shards -}}
{{- $_ := set $places (printf "shards[%s].settings" .name) (default (dict) .settings) -}}
{{- end -}}
{{- range $place, $settings := $places -}}
{{- range $name, $value := $settings -}}
{{- if hasKey $.Values.secrets $name -}}
{{- $problems = append $problems (printf "%s.%s is a secret, and would stand readable in the pod's spec: name a Secret under secrets.%s.existingSecret" $place $name $name) -}}
{{- else if hasKey $managed $name -}}
{{- $problems = append $problems (printf "%s.%s is set by the chart: %s" $place $name (get $managed $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.shards -}}
{{- $shard := . -}}
{{- range $name, $key := dict "HEADRACE_KAFKA_TOPIC" "topic" "HEADRACE_STORE_PREFIX" "prefix" "HEADRACE_KAFKA_GROUP" "group" -}}
{{- if hasKey (default (dict) $shard.settings) $name -}}
{{- $problems = append $problems (printf "shards[%s].settings.%s would not count: say shards[%s].%s" $shard.name $name $shard.name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range include "headrace.shards" . | fromJsonArray -}}
{{- $settings := include "headrace.settings" (dict "root" $ "shard" .) | fromJson -}}
{{- $where := ternary (printf "shards[%s]: " .name) "" (ne .name "") -}}
{{- if not $settings.HEADRACE_KAFKA_BOOTSTRAP -}}
{{- $problems = append $problems (printf "%ssettings.HEADRACE_KAFKA_BOOTSTRAP is empty: name the brokers as host:port, several joined by commas" $where) -}}
{{- end -}}
{{- if and $settings.HEADRACE_KAFKA_DEAD_LETTER_TOPIC (eq $settings.HEADRACE_KAFKA_DEAD_LETTER_TOPIC (default "clickstream" $settings.HEADRACE_KAFKA_TOPIC)) -}}
{{- $problems = append $problems (printf "%ssettings.HEADRACE_KAFKA_DEAD_LETTER_TOPIC is the topic of the clicks, and rejects would loop: name another, or leave it empty for TOPIC.dlq" $where) -}}
{{- end -}}
{{- $security := default "PLAINTEXT" $settings.HEADRACE_KAFKA_SECURITY -}}
{{- $password := include "headrace.secretRef" (dict "root" $ "name" "HEADRACE_KAFKA_SASL_PASSWORD") -}}
{{- if hasPrefix "SASL" $security -}}
{{- if not (and $settings.HEADRACE_KAFKA_SASL_MECHANISM $settings.HEADRACE_KAFKA_SASL_USERNAME $password) -}}
{{- $problems = append $problems (printf "%ssettings.HEADRACE_KAFKA_SECURITY=%s needs settings.HEADRACE_KAFKA_SASL_MECHANISM, settings.HEADRACE_KAFKA_SASL_USERNAME and secrets.HEADRACE_KAFKA_SASL_PASSWORD: give all three" $where $security) -}}
{{- end -}}
{{- else if or $settings.HEADRACE_KAFKA_SASL_MECHANISM $settings.HEADRACE_KAFKA_SASL_USERNAME $password -}}
{{- $problems = append $problems (printf "%sa SASL login is given, but settings.HEADRACE_KAFKA_SECURITY=%s sends none: set it to SASL_SSL or SASL_PLAINTEXT, or remove the login" $where $security) -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "headrace.checks.secrets" -}}
{{- $problems := list -}}
{{- range $name, $secret := .Values.secrets -}}
{{- if and $secret.existingSecret $secret.value -}}
{{- $problems = append $problems (printf "secrets.%s has both existingSecret and value: keep one" $name) -}}
{{- end -}}
{{- end -}}
{{- $access := include "headrace.secretRef" (dict "root" . "name" "HEADRACE_STORE_ACCESS_KEY") -}}
{{- $secret := include "headrace.secretRef" (dict "root" . "name" "HEADRACE_STORE_SECRET_KEY") -}}
{{- if ne (empty $access) (empty $secret) -}}
{{- $problems = append $problems "secrets.HEADRACE_STORE_ACCESS_KEY and secrets.HEADRACE_STORE_SECRET_KEY: give both, or neither where the pod has a role" -}}
{{- end -}}
{{- $access := include "headrace.secretRef" (dict "root" . "name" "HEADRACE_BACKUP_ACCESS_KEY") -}}
{{- $secret := include "headrace.secretRef" (dict "root" . "name" "HEADRACE_BACKUP_SECRET_KEY") -}}
{{- if ne (empty $access) (empty $secret) -}}
{{- $problems = append $problems "secrets.HEADRACE_BACKUP_ACCESS_KEY and secrets.HEADRACE_BACKUP_SECRET_KEY: give both, or neither where those of the store will do" -}}
{{- end -}}
{{- range $name, $source := dict "storeCa" .Values.tls.storeCa "backupCa" .Values.tls.backupCa "kafkaCa" .Values.tls.kafkaCa -}}
{{- if and $source.existingSecret $source.existingConfigMap -}}
{{- $problems = append $problems (printf "tls.%s has both existingSecret and existingConfigMap: keep one" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.admin.enabled (not (include "headrace.secretRef" (dict "root" . "name" "HEADRACE_ADMIN_TOKEN"))) -}}
{{- $problems = append $problems "admin.enabled: the door stays closed without a token: name one under secrets.HEADRACE_ADMIN_TOKEN.existingSecret" -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "headrace.checks.ray" -}}
{{- $problems := list -}}
{{- $ray := .Values.ray -}}
{{- if and (eq $ray.mode "external") (not $ray.address) -}}
{{- $problems = append $problems "ray.mode=external needs ray.address: ray://HOST:10001, the cluster's Ray Client port" -}}
{{- end -}}
{{- if and (ne $ray.mode "external") $ray.address -}}
{{- $problems = append $problems (printf "ray.address is given, but ray.mode=%s does not use it: set ray.mode to external, or empty the address" $ray.mode) -}}
{{- end -}}
{{- if and (ne $ray.mode "external") (include "headrace.secretRef" (dict "root" . "name" "RAY_AUTH_TOKEN")) -}}
{{- $problems = append $problems (printf "secrets.RAY_AUTH_TOKEN is for ray.mode=external; with %s the token is made by itself: remove it" $ray.mode) -}}
{{- end -}}
{{- if and (eq $ray.mode "kuberay") (not (.Capabilities.APIVersions.Has "ray.io/v1")) -}}
{{- $problems = append $problems "ray.mode=kuberay: this cluster does not know ray.io/v1: install the KubeRay operator (1.5.1 or later) first, or choose ray.mode embedded or external. Rendering without a cluster: --api-versions ray.io/v1" -}}
{{- end -}}
{{- if ne $ray.mode "external" -}}
{{- range include "headrace.shards" . | fromJsonArray -}}
{{- $settings := include "headrace.settings" (dict "root" $ "shard" .) | fromJson -}}
{{- $store := default "256MiB" $settings.HEADRACE_RAY_OBJECT_STORE_BYTES -}}
{{- $inside := eq $ray.mode "embedded" -}}
{{- if and $inside (lt (include "headrace.bytes" $.Values.shm.sizeLimit | int64) (include "headrace.bytes" $store | int64)) -}}
{{- $problems = append $problems (printf "shm.sizeLimit=%s is less than HEADRACE_RAY_OBJECT_STORE_BYTES=%s: Ray would not start. Raise the one or lower the other" $.Values.shm.sizeLimit (include "headrace.text" $store)) -}}
{{- end -}}
{{- $budget := default 0 $settings.HEADRACE_MODEL_MEMORY_BYTES -}}
{{- /* Where the learner is, what else takes of its limit, and what would be killed. */ -}}
{{- $room := dict "key" "resources" "of" (default $.Values.resources .resources) "beside" "HEADRACE_RAY_OBJECT_STORE_BYTES" "takes" $store "end" "the pod would be killed as its" -}}
{{- if not $inside -}}
{{- $room = dict "key" "ray.kuberay.workers.resources" "of" $ray.kuberay.workers.resources "beside" "ray.kuberay.shmSizeLimit" "takes" $ray.kuberay.shmSizeLimit "end" "the worker would be killed as the learner's" -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" $room.of -}}
{{- $least := add (include "headrace.bytes" $budget | int64) (include "headrace.bytes" $room.takes | int64) -}}
{{- if and $limit (gt $least (include "headrace.bytes" $limit | int64)) -}}
{{- $problems = append $problems (printf "%s.limits.memory=%s is less than HEADRACE_MODEL_MEMORY_BYTES=%s and %s=%s together: %s tables fill. Raise the limit or lower the budget (docs/operate.md, sizing)" $room.key (include "headrace.text" $limit) (include "headrace.text" $budget) $room.beside (include "headrace.text" $room.takes) $room.end) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson (uniq $problems) -}}
{{- end -}}

{{- define "headrace.checks.store" -}}
{{- $problems := list -}}
{{- range include "headrace.shards" . | fromJsonArray -}}
{{- $settings := include "headrace.settings" (dict "root" $ "shard" .) | fromJson -}}
{{- $store := default "s3" $settings.HEADRACE_STORE -}}
{{- if ne $store "s3" -}}
{{- $kept := $.Values.persistence -}}
{{- if not (and $kept.enabled (hasPrefix (printf "%s/" (trimSuffix "/" $kept.mountPath)) (trimPrefix "file://" $store))) -}}
{{- $problems = append $problems (printf "settings.HEADRACE_STORE=%s is a directory that goes with its pod, and all that was learned with it: set persistence.enabled, and a directory below persistence.mountPath=%s; or use s3" $store $kept.mountPath) -}}
{{- end -}}
{{- if ne $.Values.ray.mode "embedded" -}}
{{- $problems = append $problems (printf "settings.HEADRACE_STORE=%s is a directory that a learner in another pod does not see: use s3, or ray.mode embedded" $store) -}}
{{- end -}}
{{- range $job := list "incremental" "full" "retrain" "backup" -}}
{{- if (index $.Values.cronJobs $job).enabled -}}
{{- $problems = append $problems (printf "cronJobs.%s.enabled: its pod does not see settings.HEADRACE_STORE=%s, a directory of the learner's: use s3, or disable it" $job $store) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range include "headrace.shards" . | fromJsonArray -}}
{{- $settings := include "headrace.settings" (dict "root" $ "shard" .) | fromJson -}}
{{- if and $.Values.cronJobs.retrain.enabled (eq (toString $settings.HEADRACE_RETRAIN_ENABLED) "false") -}}
{{- $problems = append $problems "cronJobs.retrain.enabled: with settings.HEADRACE_RETRAIN_ENABLED=false no learner would ever do it: enable the one or disable the other" -}}
{{- end -}}
{{- if and $.Values.cronJobs.backup.enabled (not (hasPrefix "s3://" (toString $settings.HEADRACE_BACKUP_TO))) -}}
{{- $problems = append $problems "cronJobs.backup.enabled: settings.HEADRACE_BACKUP_TO must name the bucket that copies go to, as s3://BUCKET: a directory goes with the job's pod" -}}
{{- end -}}
{{- end -}}
{{- toJson (uniq $problems) -}}
{{- end -}}

{{- define "headrace.checks.shards" -}}
{{- $problems := list -}}
{{- $names := dict -}}
{{- $places := dict -}}
{{- range .Values.shards -}}
{{- $settings := include "headrace.settings" (dict "root" $ "shard" .) | fromJson -}}
{{- $place := printf "%s/%s" (default "s3" $settings.HEADRACE_STORE_BUCKET) $settings.HEADRACE_STORE_PREFIX -}}
{{- if hasKey $names .name -}}
{{- $problems = append $problems (printf "shards: two are called %s: give each a name of its own" .name) -}}
{{- else if hasKey $places $place -}}
{{- $problems = append $problems (printf "shards: %s and %s keep their state at the same place (%s), so each would fence the other: give them different prefixes" (get $places $place) .name $place) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- $_ := set $places $place .name -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "headrace.checks.times" -}}
{{- $problems := list -}}
{{- range include "headrace.shards" . | fromJsonArray -}}
{{- $here := dict "root" $ "shard" . -}}
{{- $settings := include "headrace.settings" $here | fromJson -}}
{{- $drain := default 25 $settings.HEADRACE_STREAM_DRAIN_SECONDS | float64 | ceil | int -}}
{{- if lt (include "headrace.grace" $here | int) (add $drain 5 | int) -}}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds=%s is too short for HEADRACE_STREAM_DRAIN_SECONDS=%d: the pod would be killed before its last checkpoint. Leave it empty, or set %d or more" (include "headrace.grace" $here) $drain (add $drain 5)) -}}
{{- end -}}
{{- end -}}
{{- toJson (uniq $problems) -}}
{{- end -}}

{{- define "headrace.checks.env" -}}
{{- $problems := list -}}
{{- $seen := dict -}}
{{- range .Values.extraEnv -}}
{{- if hasKey $seen .name -}}
{{- $problems = append $problems (printf "extraEnv has %s twice: keep one" .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- if hasKey $.Values.secrets .name -}}
{{- $problems = append $problems (printf "extraEnv has %s: name it under secrets.%s" .name .name) -}}
{{- else if hasPrefix "HEADRACE_" .name -}}
{{- $problems = append $problems (printf "extraEnv has %s: it is checked by type and range under settings.%s" .name .name) -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{- define "headrace.checks.names" -}}
{{- $problems := list -}}
{{- $name := include "headrace.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- $problems = append $problems (printf "all names would begin with %q, which is none for a Service: set fullnameOverride to small letters, digits and '-', a letter first" $name) -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}

{{/* What the cluster itself can tell. Nothing where there is none: lookup is empty then, the namespace's too. */}}
{{- define "headrace.checks.cluster" -}}
{{- $problems := list -}}
{{- $space := .Release.Namespace -}}
{{- if and .Values.checkSecrets (lookup "v1" "Namespace" "" $space) -}}
{{- $wanted := list -}}
{{- range $name, $secret := .Values.secrets -}}
{{- with $secret.existingSecret -}}
{{- $wanted = append $wanted (dict "kind" "Secret" "name" . "key" (default $name $secret.key) "value" (printf "secrets.%s" $name)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $source := .Values.tls -}}
{{- $kind := ternary "Secret" "ConfigMap" (not (empty $source.existingSecret)) -}}
{{- $object := default $source.existingConfigMap $source.existingSecret -}}
{{- range list $source.key $source.certKey $source.keyKey | compact -}}
{{- if $object -}}
{{- $wanted = append $wanted (dict "kind" $kind "name" $object "key" . "value" (printf "tls.%s" $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $wanted -}}
{{- $found := lookup "v1" .kind $space .name -}}
{{- $make := ternary "kubectl create secret generic" "kubectl create configmap" (eq .kind "Secret") -}}
{{- if not $found -}}
{{- $problems = append $problems (printf "%s.existing%s: there is no %s %s in namespace %s. Create it first: %s %s -n %s --from-file=%s=FILE (checkSecrets=false skips this check)" .value .kind .kind .name $space $make .name $space .key) -}}
{{- else if not (hasKey (default (dict) $found.data) .key) -}}
{{- $problems = append $problems (printf "%s: %s %s in namespace %s has no key %s, only %s: name the right key" .value .kind .name $space .key (keys (default (dict) $found.data) | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}
