#!/bin/bash
# rank.sh ID COMMAND...: runs a rank's command, and says in the job's log how it ended: srun tells the largest code alone.
id=$1
shift
trap : TERM # the command gets it, too: this waits for its end
"$@"
code=$?
echo "ended with $code"

# Rank 0 is lost. If that is because its node is, the batch script and srun are lost with it, and the job, which --no-kill keeps, would
# hold its nodes until SLURM looks for the script again: up to 20 pings after SlurmdTimeout, half an hour by default. So the second
# node looks whether srun still answers; a job that somebody has cancelled isn't RUNNING. Where there is no scontrol, in a container,
# that half hour it is.
if [ "$code" = 76 ] && [ "$SLURM_NODEID,$SLURM_LOCALID" = 1,0 ] &&
  ! timeout 10 bash -c ": </dev/tcp/$SLURM_SRUN_COMM_HOST/$SLURM_SRUN_COMM_PORT" 2>/dev/null &&
  scontrol show job "$id" 2>/dev/null | grep -q JobState=RUNNING; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-3}" ]; then scontrol requeue "$id"; else scancel "$id"; fi
fi
exit "$code"
