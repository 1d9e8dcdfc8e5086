#!/usr/bin/env bash
# Trains on a Cloud TPU VM or on all hosts of a pod slice; every host runs the same command.
#
#   launch/tpu_vm.sh [--dry_run] [--spot] [--share=IP:/NAME] ACTION NAME ZONE TYPE [-- ser_jax.main --config=…]
#
# ACTION: create, setup (installs this checkout), run, fetch (runs/ of the first host), delete; resume (after a
# preemption: delete, create, setup, run) or all (create, setup, run, fetch, delete). TYPE: v5litepod-N, v6e-N, v4-N or
# v5p-N. More than one host needs --share: an NFS share (Filestore) of the same network, mounted as /mnt/ser_jax; put
# --workdir and recordings there. --dry_run prints the commands. Needs gcloud, logged in, with a project set.
set -euo pipefail

usage() { sed -n '2,9p' "$0" >&2; exit 2; }
show() { printf '%s\n' "${*@Q}"; }
spot=() run=() share=
while [[ ${1-} == --* ]]; do
  case $1 in
    --spot) spot=(--spot) ;;
    --dry_run) run=(show) ;;
    --share=?*:/?*) share=${1#--share=} ;;
    *) usage ;;
  esac && shift
done
[ $# -ge 4 ] || usage
action=$1 name=$2 zone=$3 type=$4 && shift 4
case $type in
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v4-*) runtime=tpu-ubuntu2204-base ;;
  *) echo "error: TYPE=$type is not known; use v4-N, v5litepod-N, v5p-N or v6e-N" >&2 && exit 2 ;;
esac
[[ $action != @(run|resume|all) && $# -eq 0 || ${1-} == -- && $# -ge 2 ]] || usage
shift $(($# > 0))
tpu() { "${run[@]}" gcloud compute tpus "$@" --zone="$zone"; }
on_hosts() { tpu tpu-vm ssh "$name" --worker=all --command="$1"; }
create() {
  tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}"
  until [ ${#run[@]} -gt 0 ] || { state=$(tpu queued-resources describe "$name" --format='value(state.state)') && [ "$state" = ACTIVE ]; }; do
    echo "$name is ${state:-not known yet}" >&2; [[ $state != @(FAILED|SUSPENDED) ]] || exit 1; sleep 20
  done
}
setup() {
  archive=$(mktemp) && git archive --format=tar.gz --output="$archive" HEAD
  tpu tpu-vm scp "$archive" "$name:ser_jax.tar.gz" --worker=all
  # The images carry an older Python than jax needs: uv brings one along.
  on_hosts 'mkdir -p ser_jax && tar -xzf ser_jax.tar.gz -C ser_jax && pip install -q uv &&
    ~/.local/bin/uv venv -q --python 3.12 .venv && ~/.local/bin/uv pip install -q --python .venv/bin/python -e "ser_jax[tpu]"'; rm "$archive"
  [ -z "$share" ] || on_hosts "sudo apt-get install -qq -y nfs-common && sudo mkdir -p /mnt/ser_jax &&
    sudo mount -o nconnect=4 $share /mnt/ser_jax && sudo chmod 1777 /mnt/ser_jax"
}
train() { on_hosts "cd ser_jax && ../.venv/bin/python -m $(printf '%q ' "$@")"; }
fetch() { tpu tpu-vm scp --recurse "$name:ser_jax/runs" . --worker=0; }
delete() { tpu queued-resources delete "$name" --force --quiet; }
case $action in
  create | setup | fetch | delete) "$action" ;;
  run) train "$@" ;;
  resume) delete || true; create; setup; train "$@" ;;
  all) trap delete EXIT; create; setup; train "$@"; [ -n "$share" ] || fetch ;;
  *) usage ;;
esac
