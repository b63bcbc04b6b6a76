#!/bin/bash -l
# iberlm curate, job curate: written by IberLM 0.6.0 (1a2b3c4) for the cluster marenostrum5_gpp.
# Change the profile and run the command again rather than this file: what sbatch is given by hand is noted nowhere.

#SBATCH --job-name=curate
#SBATCH --output="/scratch/my project/runs/iberian-2b/slurm/logs/curate-%j.log"
#SBATCH --open-mode=append
#SBATCH --partition=gpp
#SBATCH --qos=gp_ehpc
#SBATCH --account=project1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=112
#SBATCH --time=3-00:00:00
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --export=NONE

set -uo pipefail
trap : TERM # this shell outlives what it starts, to say how that ended

folder='/scratch/my project/runs/iberian-2b/slurm/curate'
job=$SLURM_JOB_ID

# Programs. Other people's scripts may use variables that are not set.
set +u
module load singularity || exit
set -u

# Environment
export IBERLM_JOB=$folder PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1
export HF_DATASETS_OFFLINE=1
export HF_EVALUATE_OFFLINE=1
export TRANSFORMERS_OFFLINE=1
export HF_HUB_DISABLE_TELEMETRY=1
node_local="${TMPDIR:-/tmp}"
export TRITON_CACHE_DIR=$node_local/iberlm-$UID/triton TORCHINDUCTOR_CACHE_DIR=$node_local/iberlm-$UID/inductor

python=(/home/me/venv/bin/python)

# One task as a step of its own: the signal before the limit goes to steps, and nobody else would hear it.
iberlm() {
  srun --export=ALL -N 1 -n 1 -c 112 "${python[@]}" -m iberlm "$@"
}

launch() {
  local module=$1
  shift
  "${python[@]}" -m "iberlm.launch.job.$module" "$@"
}

# Carries out what a start or an end decided, one action a line: requeue; exclude NODE,NODE; chain JOB JOB.
perform() {
  local word rest again='' nodes='' chain=() queued
  while read -r word rest; do
    case $word in
    requeue) again=yes ;;
    exclude) nodes=$rest ;;
    chain) read -ra chain <<<"$rest" ;;
    esac
  done
  if [[ $nodes ]]; then
    for queued in "${chain[@]}"; do
      scontrol update "JobId=$queued" "ExcNodeList=$nodes" || echo "job $queued may still start on $nodes" >&2
    done
  fi
  if [[ $again ]]; then
    trap '' TERM # scontrol requeue ends this shell; the nodes to leave out can be named only after it
    scontrol requeue "$job" || {
      echo "job $job could not be put back into the queue; run the same command again to go on" >&2
      return
    }
    if [[ $nodes ]]; then
      for _ in {1..50}; do
        scontrol update "JobId=$job" "ExcNodeList=$nodes" 2>/dev/null && return
        sleep 0.1
      done
      echo "job $job may start again on $nodes" >&2
    fi
  fi
}

# Each node says what it has; one that hangs is told by its silence.
timeout --kill-after=10 300 \
  srun --export=ALL -N 1 -n 1 --ntasks-per-node=1 -c 112 "${python[@]}" -m iberlm.launch.job.node "$folder"
# Judges the nodes, notes this start, and may decide against it; nodes that failed before are kept from the queued jobs too.
actions=$(launch start "$folder")
status=$?
perform <<<"$actions"
((status == 0)) || exit "$status"

iberlm curate --frozen "$folder/config.yaml" --until select
status=$?

# Says how it ended, and what is to follow: not what it would be for a job that somebody cancels, or that makes room for another.
IBERLM_JOB_STATE=$(timeout 30 squeue -h -j "$job" -O State,PreemptTime)
export IBERLM_JOB_STATE
actions=$(launch end "$folder" "$status") || echo "the end of job $job could not be noted" >&2
perform <<<"$actions"
exit "$status"
