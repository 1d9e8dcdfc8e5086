#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster through xpk; every host runs the same command and is started again after a preemption.
#
#   launch/tpu_xpk.sh [--dry_run] [--spot] ACTION CLUSTER ZONE TYPE SLICES [NAME -- ser_jax.main --config=…]
#
# ACTION: create (cluster), setup (a Filestore share, /mnt/ser_jax in every pod), run (workload NAME), resume (NAME again,
# when its restarts are used up), stop (NAME), delete (cluster). TYPE: v5litepod-16, v6e-16, …; put --workdir and
# recordings in /mnt/ser_jax. --dry_run prints the commands. Needs xpk and gcloud, logged in, with a project set.
set -euo pipefail

usage() { sed -n '2,8p' "$0" >&2; exit 2; }
show() { printf '%s\n' "${*@Q}"; }
spot=(--on-demand) run=()
while [[ ${1-} == --* ]]; do
  case $1 in
    --spot) spot=(--spot) ;;
    --dry_run) run=(show) ;;
    *) usage ;;
  esac
  shift
done
[ $# -ge 5 ] || usage
action=$1 cluster=$2 zone=$3 type=$4 slices=$5 name=${6-}
shift 5
case $action in
  run | resume) [[ ${2-} == -- && $# -ge 3 ]] || usage; shift 2 ;;
  stop) [ $# -eq 1 ] || usage ;;
  *) [ $# -eq 0 ] || usage ;;
esac

xpk_() { "${run[@]}" xpk "$@" --cluster="$cluster" --zone="$zone"; }
stop() { xpk_ workload delete --workload="$name" --force; }
submit() {
  # Exit codes that xpk starts again: 42, after a preemption, and 127 to 255, among them 134: a host was lost.
  xpk_ workload create --workload="$name" --tpu-type="$type" --num-slices="$slices" \
    --base-docker-image=python:3.12 --script-dir=. --max-restarts=50 --termination-grace-period-seconds=300 \
    --command="pip install -q '.[tpu]' && exec python -m $(printf '%q ' "$@")"
}

case $action in
  create) xpk_ cluster create --tpu-type="$type" --num-slices="$slices" "${spot[@]}" --enable-gcpfilestore-csi-driver ;;
  setup)
    xpk_ storage create ser-jax --type=gcpfilestore --vol=ser_jax --size=1024 --tier=BASIC_HDD --access-mode=ReadWriteMany \
      --auto-mount=true --readonly=false --mount-point=/mnt/ser_jax
    ;;
  run) submit "$@" ;;
  resume) stop || true; submit "$@" ;;
  stop) stop ;;
  delete) xpk_ cluster delete --force ;;
  *) usage ;;
esac
