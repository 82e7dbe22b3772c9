#!/usr/bin/env bash
# Trains on several machines: run this on each of them, with its number.
#   NODES=2 NODE=0 MASTER=10.0.0.1 DEVICES=4 docs/launch/torchrun.sh --config es2.yaml
# Checkpoints have to lie on a file system that all machines see.
set -euo pipefail
: "${NODES:=2}"                     # machines
: "${NODE:?number of this machine, from 0 on}"
: "${MASTER:?address of machine 0}"
: "${PORT:=29500}"                  # a free port of machine 0
: "${DEVICES:=1}"                   # ranks on each machine: GPUs, or processes on a CPU
: "${ACCELERATOR:=auto}"            # gpu, cpu or auto
: "${STRATEGY:=ensemble_parallel}"  # or ddp_find_unused_parameters_true

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python -m torch.distributed.run --nnodes "$NODES" --node_rank "$NODE" --nproc_per_node "$DEVICES" \
    --master_addr "$MASTER" --master_port "$PORT" \
    -m hadrl_lightning.cli fit "$@" \
    --trainer.num_nodes "$NODES" --trainer.devices "$DEVICES" \
    --trainer.accelerator "$ACCELERATOR" --trainer.strategy "$STRATEGY"
