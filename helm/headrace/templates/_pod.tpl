{{/* What pods have in common. */}}

{{/* The beginning of every pod's spec. Takes root and maybe account. */}}
{{- define "headrace.podBasics" -}}
serviceAccountName: {{ default (include "headrace.serviceAccount" .root) .account }}
automountServiceAccountToken: false
# A Service named headrace would put HEADRACE_PORT=tcp://... into the environment, where Headrace refuses what it does
# not know.
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* The beginning of every container. Takes root. */}}
{{- define "headrace.containerBasics" -}}
image: {{ include "headrace.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
# The last lines of the log say what is wrong and what to do: `kubectl describe pod` shows them.
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{/* Placement. Takes root. */}}
{{- define "headrace.placement" -}}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Takes root and maybe purpose. */}}
{{- define "headrace.mounts" -}}
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- with .root.Values.tls }}
{{- if or .storeCa.existingSecret .storeCa.existingConfigMap }}
- name: store-ca
  mountPath: /etc/headrace/store-ca
  readOnly: true
{{- end }}
{{- if and (include "headrace.copies" $) (or .backupCa.existingSecret .backupCa.existingConfigMap) }}
- name: backup-ca
  mountPath: /etc/headrace/backup-ca
  readOnly: true
{{- end }}
{{- if or .kafkaCa.existingSecret .kafkaCa.existingConfigMap }}
- name: kafka-ca
  mountPath: /etc/headrace/kafka-ca
  readOnly: true
{{- end }}
{{- if .kafkaClient.existingSecret }}
- name: kafka-client
  mountPath: /etc/headrace/kafka-client
  readOnly: true
{{- end }}
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root and maybe purpose, shm, the size of the shared memory. */}}
{{- define "headrace.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .root.Values.tmp.sizeLimit }}
# A container's own /dev/shm has 64 MiB, in which Ray does not start.
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ default .root.Values.shm.sizeLimit .shm }}
{{- $authorities := dict "store-ca" .root.Values.tls.storeCa "kafka-ca" .root.Values.tls.kafkaCa }}
{{- if include "headrace.copies" . }}
{{- $_ := set $authorities "backup-ca" .root.Values.tls.backupCa }}
{{- end }}
{{- range $name, $source := $authorities }}
{{- if or $source.existingSecret $source.existingConfigMap }}
- name: {{ $name }}
  {{- if $source.existingSecret }}
  secret:
    secretName: {{ $source.existingSecret }}
    items: [{key: {{ $source.key }}, path: {{ $source.key }}}]
  {{- else }}
  configMap:
    name: {{ $source.existingConfigMap }}
    items: [{key: {{ $source.key }}, path: {{ $source.key }}}]
  {{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.tls.kafkaClient }}
{{- if .existingSecret }}
- name: kafka-client
  secret:
    secretName: {{ .existingSecret }}
    # A private key: for the owner and fsGroup alone.
    defaultMode: 0440
    items: [{key: {{ .certKey }}, path: {{ .certKey }}}, {key: {{ .keyKey }}, path: {{ .keyKey }}}]
{{- end }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "headrace.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
{{ toYaml .times }}
{{- end -}}
