#!/usr/bin/env bash
# Trains on a single-host Cloud TPU VM: creates it, installs this checkout, runs a command there, fetches runs/, deletes it.
#
#   launch/tpu_vm.sh NAME ZONE TYPE [--spot] [--dry_run] -- ser_jax.main --config=configs/multi_crnn.py …
#
# TYPE is v5litepod-8, v6e-8, v4-8 or v5p-8. --dry_run prints the commands. Needs gcloud, logged in, with a project set.
# The recordings must be where the command looks for them: copy them with `gcloud compute tpus tpu-vm scp --recurse`.
set -euo pipefail

usage() { sed -n '2,7p' "$0" >&2; exit 2; }
[ $# -ge 5 ] || usage
name=$1 zone=$2 type=$3
shift 3
spot=() run=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --spot) spot=(--spot) ;;
    --dry_run) run=(echo) ;;
    *) usage ;;
  esac
  shift
done
[ $# -ge 2 ] || usage
shift
case $type in
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v4-*) runtime=tpu-ubuntu2204-base ;;
  *) echo "error: TYPE=$type is not known; use v4-N, v5litepod-N, v5p-N or v6e-N" >&2; exit 2 ;;
esac

tpu() { "${run[@]}" gcloud compute tpus "$@" --zone="$zone"; }
on_host() { tpu tpu-vm ssh "$name" --worker=all --command="$1"; }
remove() { tpu queued-resources delete "$name" --force --quiet; }

tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}"
trap remove EXIT
state() { gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)'; }
until [ ${#run[@]} -gt 0 ] || [ "$(state)" = ACTIVE ]; do
  echo "waiting for $name"
  sleep 20
done

archive=$(mktemp)
git archive --format=tar.gz --output="$archive" HEAD
tpu tpu-vm scp "$archive" "$name:ser_jax.tar.gz" --worker=all
# The images carry an older Python than jax needs: uv brings one along.
on_host 'mkdir -p ser_jax && tar -xzf ser_jax.tar.gz -C ser_jax && pip install -q uv &&
  ~/.local/bin/uv venv -q --python 3.12 .venv && ~/.local/bin/uv pip install -q --python .venv/bin/python -e "ser_jax[tpu]"'
on_host "cd ser_jax && ../.venv/bin/python -m $(printf '%q ' "$@")"
tpu tpu-vm scp --recurse "$name:ser_jax/runs" .
