#!/bin/bash
# rank.sh ID COMMAND...: runs a rank's command and logs its exit code, since srun returns only the largest code of all ranks. After it
# stands LAST_WORD, which only the batch script and this script know: no other line of the log is taken for a rank's last one.
id=$1 word=$LAST_WORD
shift
unset LAST_WORD
trap : TERM # the command gets it, too: this waits for its end
"$@"
code=$?
echo "ended with $code $word"

# Rank 0 is lost. If its node is lost, too, so are the batch script and srun. The job, which --no-kill keeps, would then hold its nodes
# until SLURM checks for the script again: up to 20 pings after SlurmdTimeout, half an hour by default. So the second node checks
# whether srun still answers. A job that somebody has cancelled isn't RUNNING. Without scontrol, as in a container, the job waits for
# that half hour.
if [ "$code" = 76 ] && [ "$SLURM_NODEID,$SLURM_LOCALID" = 1,0 ] &&
  ! timeout 10 bash -c ": </dev/tcp/$SLURM_SRUN_COMM_HOST/$SLURM_SRUN_COMM_PORT" 2>/dev/null &&
  scontrol show job "$id" 2>/dev/null | grep -q JobState=RUNNING; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-3}" ]; then scontrol requeue "$id"; else scancel "$id"; fi
fi
exit "$code"
