#!/bin/bash -l
# iberlm pretrain, job pretrain: written by IberLM 0.6.0 (1a2b3c4) for the cluster leonardo_booster.
# Change the profile and run the command again rather than this file: what sbatch is given by hand is noted nowhere.

#SBATCH --job-name=pretrain
#SBATCH --output="/scratch/my project/runs/iberian-2b/slurm/logs/pretrain-%j.log"
#SBATCH --open-mode=append
#SBATCH --partition=boost_usr_prod
#SBATCH --account=project1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:4
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=1-00:00:00
#SBATCH --signal=USR2@600
#SBATCH --requeue
#SBATCH --export=WANDB_API_KEY

set -uo pipefail
trap : TERM # this shell outlives what it starts, to say how that ended

folder='/scratch/my project/runs/iberian-2b/slurm/pretrain'
job=$SLURM_JOB_ID

# Environment
export IBERLM_JOB=$folder PYTHONUNBUFFERED=1
export NCCL_IB_TIMEOUT=120
export HF_HOME=/gpfs/me/bundle/hub
export HF_HUB_CACHE=/gpfs/me/bundle/hub/hub
export HF_DATASETS_CACHE=/gpfs/me/bundle/hub/datasets
export HF_MODULES_CACHE=/gpfs/me/bundle/hub/modules
export HF_HUB_OFFLINE=1
export HF_DATASETS_OFFLINE=1
export HF_EVALUATE_OFFLINE=1
export TRANSFORMERS_OFFLINE=1
export HF_HUB_DISABLE_TELEMETRY=1
node_local="${TMPDIR:-/tmp}"
export TRITON_CACHE_DIR=$node_local/iberlm-$UID/triton TORCHINDUCTOR_CACHE_DIR=$node_local/iberlm-$UID/inductor

# Ranks find each other at the first node; 4 a node.
export MASTER_ADDR MASTER_PORT LOCAL_WORLD_SIZE=4
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=8
export IBERLM_RANK_REPORTS=$folder/reports

# Python in the container, which sees the folders that are bound and this environment; scontrol and srun stay outside.
python=(
  singularity exec
  --nv
  --bind /leonardo_work
  --bind /leonardo_scratch
  --bind '/scratch/my project/runs/iberian-2b'
  --bind /gpfs/me/bundle
  --bind "$node_local"
  /gpfs/me/iberlm.sif python3
)

# One task as a step of its own: the signal before the limit goes to steps, and nobody else would hear it.
iberlm() {
  srun --export=ALL -N 1 -n 1 -c 8 "${python[@]}" -m iberlm "$@"
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
  srun --export=ALL -N 2 -n 2 --ntasks-per-node=1 -c 8 "${python[@]}" -m iberlm.launch.job.node "$folder"
# Judges the nodes, notes this start, and may decide against it; nodes that failed before are kept from the queued jobs too.
actions=$(launch start "$folder")
status=$?
perform <<<"$actions"
((status == 0)) || exit "$status"

# Before the ranks: what does not fit is told here, and what they are is written down. Nothing written: it is complete already.
iberlm pretrain --frozen "$folder/config.yaml" --ranks before
status=$?
if ((status == 0)) && [[ -f $folder/ranks ]]; then
  mapfile -d '' -t command <"$folder/ranks"
  srun --export=ALL --wait=0 --kill-on-bad-exit=1 --label -N 2 -n 8 -c 8 \
    "${python[@]}" -m "${command[@]}"
  # After the ranks: raises what one of them raised, or completes the stage.
  iberlm pretrain --frozen "$folder/config.yaml" --ranks "after=$?"
  status=$?
fi

# Says how it ended, and what is to follow: not what it would be for a job that somebody cancels, or that makes room for another.
IBERLM_JOB_STATE=$(timeout 30 squeue -h -j "$job" -O State,PreemptTime)
export IBERLM_JOB_STATE
actions=$(launch end "$folder" "$status") || echo "the end of job $job could not be noted" >&2
perform <<<"$actions"
exit "$status"
