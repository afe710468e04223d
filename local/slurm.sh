#!/usr/bin/env bash
# Trains on a Slurm cluster: sbatch --nodes=2 --gpus-per-node=8 local/slurm.sh --recipe librispeech
# Stages 0 to 3 run before it, on one machine.
#
# 120 s before its time is up Slurm sends SIGUSR1 to this script: training saves itself, and the job is
# put into the queue again. On SIGTERM (preemption, scancel) it saves itself too, but the queue is left
# to Slurm, which knows which of both it was: --requeue lets it put a preempted job back.
#SBATCH --job-name=lmu_asr
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # sh need not be bash
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export head
taken="" child=""
# srun passes both on to the tasks, which are run.sh
trap 'taken=${taken:-USR1}; [[ -z $child ]] || kill -USR1 "$child" 2>/dev/null || true' USR1
trap 'taken=${taken:-TERM}; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM
# shellcheck disable=SC2016
srun bash -c 'exec ./run.sh --stage 4 --stop-stage 4 --ngpu "$SLURM_GPUS_ON_NODE" \
  --num-nodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master-addr "$head" "$@"' train "$@" &
child=$!
[[ -z $taken ]] || kill -s "$taken" "$child" 2>/dev/null || true
while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
status=0
wait "$child" || status=$?
# training may have finished just before it was asked
[[ $taken != USR1 || $status == 0 ]] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
