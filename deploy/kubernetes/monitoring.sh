#!/bin/bash
# Prints the ConfigMap of CloudNativePG's custom queries, from deploy/prometheus/queries.yaml:
#
#   deploy/kubernetes/monitoring.sh DATABASE… | kubectl apply -f -
#
# Tried: what it prints is read by test/t/052_deploy.pl; no cluster has run it.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: monitoring.sh DATABASE…" >&2; exit 1; }
databases=$(printf ', %s' "$@")

cat <<'YAML'
apiVersion: v1
kind: ConfigMap
metadata:
  name: event-store-queries
  labels:
    cnpg.io/reload: ""
data:
  queries.yaml: |
YAML
sed -E "s/^  query: >-$/  target_databases: [${databases:2}]\n&/; /^#/d" "$(dirname "$0")/../prometheus/queries.yaml" |
	sed 's/^/    /'
