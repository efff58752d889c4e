#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output={folder}/slurm-%a.txt
# Each task is one trial. SIGTERM saves it and ends it with status 75: it is queued again.
dime sweep {study} --storage {storage}{variant} --trial "$SLURM_ARRAY_TASK_ID" &
trial=$!
trap 'kill -TERM "$trial"' TERM
wait "$trial"
status=$?
if [ "$status" -gt 128 ]; then  # the signal came: now it saves
  wait "$trial"
  status=$?
fi
if [ "$status" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
