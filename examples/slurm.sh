#!/bin/bash
# Pairs on all nodes of a Slurm allocation, through a Ray cluster that lives as long as the job:
#
#   sbatch examples/slurm.sh 's3://bucket/rated/*.parquet' s3://bucket/pairs.parquet
#
# The ledger and what tasks leave lie next to the output, so that is in shared storage: a bucket, or a
# folder that all nodes see. A job that was preempted or ran out of time is queued again, runs the very same
# command, and that goes on where the last one stopped.
#SBATCH --job-name=prefmill
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail

if [ "$#" -ne 2 ]; then
  echo "usage: sbatch $0 INPUT OUTPUT" >&2
  exit 2
fi
input=$1 output=$2

# Five minutes before the end of its time the job asks to be queued again, and ends.
requeue() {
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue USR1

read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# `ray symmetric-run` starts Ray on every node, and the command on the first one. It ends with 0 also
# where Ray did not start: only the command itself says that it is done, in a file of this job.
done_file=$(mktemp "${SLURM_SUBMIT_DIR:-.}/prefmill-$SLURM_JOB_ID-XXXXXX")
rm "$done_file"

# shellcheck disable=SC2016  # $0 to $3 are those of the inner shell
srun --kill-on-bad-exit=1 ray symmetric-run \
  --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  bash -c 'prefmill pairs "$1" -o "$2" --engine ray --address "$3" && touch "$0"' \
  "$done_file" "$input" "$output" "$head:$port" &
wait $!

if [ ! -e "$done_file" ]; then
  echo "$0: the command did not run to its end; is Ray installed on every node?" >&2
  exit 1
fi
rm "$done_file"
