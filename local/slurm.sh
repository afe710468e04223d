#!/usr/bin/env bash
# Trains on a Slurm cluster: sbatch --nodes=2 --gpus-per-node=8 local/slurm.sh --recipe librispeech
# Stages 0 to 3 run before it, on one machine. A preempted job saves its state on SIGTERM and goes on
# when it is queued again.
#SBATCH --job-name=lmu_asr
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export head
# shellcheck disable=SC2016
exec srun bash -c './run.sh --stage 4 --stop-stage 4 --ngpu "$SLURM_GPUS_ON_NODE" \
  --num-nodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master-addr "$head" "$@"' train "$@"
