#!/usr/bin/env bash
# Trains on NVIDIA GPU machines of Google Cloud, one process per machine; every machine runs the same command.
#
#   launch/gpu.sh [--dry_run] [--spot] [--share=IP:/NAME] ACTION NAME ZONE MACHINE COUNT [-- ser_jax.main --config=…]
#
# ACTION: create (IMAGE: image family with the driver, from 525 on), setup (installs this checkout), run, fetch (runs/ of the first),
# delete; resume (after a preemption: starts what was stopped, run); all (create, setup, run, fetch, delete). MACHINE:
# a2-highgpu-1g, …. More than one needs --share: an NFS share (Filestore) of the same network, mounted as /mnt/ser_jax;
# put --workdir and recordings there. --dry_run prints the commands.
set -euo pipefail

usage() { sed -n '2,9p' "$0" >&2; exit 2; }; show() { printf '%s\n' "${*@Q}"; }
spot=() run=() share=
while [[ ${1-} == --* ]]; do
  case $1 in
    --spot) spot=(--provisioning-model=SPOT --instance-termination-action=STOP) ;;
    --dry_run) run=(show) ;;
    --share=?*:/?*) share=${1#--share=} ;;
    *) usage ;;
  esac && shift
done
[[ $# -ge 5 && $5 =~ ^[1-9][0-9]*$ ]] || usage
action=$1 name=$2 zone=$3 machine=$4 count=$5 && shift 5
[[ $action != @(run|resume|all) && $# -eq 0 || ${1-} == -- && $# -ge 2 ]] || usage
shift $(($# > 0))
mapfile -t machines < <(seq -f "$name-%.0f" 0 $((count - 1)))
compute() { "${run[@]}" gcloud compute "$@" --zone="$zone"; }
each() { for one in "${machines[@]}"; do "$@" "$one"; done; }
create() {
  compute instances create "${machines[@]}" --machine-type="$machine" --maintenance-policy=TERMINATE "${spot[@]}" \
    --image-family="${IMAGE:-common-cu128-ubuntu-2204-nvidia-570}" --image-project=deeplearning-platform-release --boot-disk-size=100GB
}
install() {
  compute scp "$archive" "$1:ser_jax.tar.gz"
  compute ssh "$1" --command='mkdir -p ser_jax && tar -xzf ser_jax.tar.gz -C ser_jax && pip install -q --user uv &&
    ~/.local/bin/uv venv -q --python 3.12 .venv && ~/.local/bin/uv pip install -q --python .venv/bin/python -e "ser_jax[cuda12]"'
}
mount_share() { compute ssh "$1" --command="mountpoint -q /mnt/ser_jax || { sudo apt-get install -qq -y nfs-common &&
  sudo mkdir -p /mnt/ser_jax && sudo mount $share /mnt/ser_jax && sudo chmod 1777 /mnt/ser_jax; }"; }
setup() {
  archive=$(mktemp); git archive --format=tar.gz --output="$archive" HEAD; each install; rm "$archive"
  [ -z "$share" ] || each mount_share
}
train() {
  pids=() code=0
  for index in "${!machines[@]}"; do
    compute ssh "${machines[index]}" --command="cd ser_jax && SER_JAX_COORDINATOR=${machines[0]}:8476 SER_JAX_PROCESSES=$count \
SER_JAX_PROCESS=$index ../.venv/bin/python -m $(printf '%q ' "$@")" & pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done && return "$code"
}
fetch() { compute scp --recurse "${machines[0]}:ser_jax/runs" .; }
delete() { compute instances delete "${machines[@]}" --quiet; }
case $action in
  create | setup | fetch | delete) "$action" ;;
  run) train "$@" ;;
  resume) compute instances start "${machines[@]}"; [ -z "$share" ] || each mount_share; train "$@" ;;
  all) trap delete EXIT; create; setup; train "$@"; [ -n "$share" ] || fetch ;;
  *) usage ;;
esac
