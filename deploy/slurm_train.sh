#!/bin/bash
# Train on several machines of a SLURM cluster: the options of sbatch, then DATA and the options of retina_train.
#
#   sbatch --nodes 2 --gpus-per-node 8 deploy/slurm_train.sh path/to/data --out runs/big --arch resnet50 --bs 512
#
# The environment with retina_nb must be active where this is typed; sbatch hands it on. The same line, typed again
# after a machine has failed, goes on from the last finished epoch.

#SBATCH --job-name=retina_train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=retina_train-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue

set -euo pipefail

# The first machine of the list is the one where all find each other, and the one that writes the run folder.
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000)) # so that two jobs on one machine do not meet
EACH=${SLURM_GPUS_ON_NODE:-1}          # processes a machine: one a GPU
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(((${SLURM_CPUS_PER_TASK:-EACH} + EACH - 1) / EACH))}
export HEAD PORT EACH OMP_NUM_THREADS

# shellcheck disable=SC2016 # SLURM_NODEID is known on each machine only
# srun starts one launcher a machine. A machine that fails does not end the others at once, or they could not say
# which it was; after two minutes it does.
exec srun --kill-on-bad-exit=0 --wait=120 bash -c '
    exec torchrun --nnodes "$SLURM_JOB_NUM_NODES" --node_rank "$SLURM_NODEID" --nproc_per_node "$EACH" \
        --master_addr "$HEAD" --master_port "$PORT" -m retina_nb.train.training "$@" --resume' retina_train "$@"
