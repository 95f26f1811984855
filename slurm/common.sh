# shellcheck shell=bash disable=SC2034,SC2154 # scripts share variables: the sourcing script sets `here`, the directory of these scripts
# Functions that the scripts of this directory share.

stop() { # MESSAGE...: end with a configuration error, which is never retried
  printf '%s\n' "$*" >&2
  exit 2
}

# SLURM stores the environment of every job on its controller's disk and, if the site has configured it, in its accounting database.
refuse_tokens() {
  local name
  for name in HF_TOKEN HUGGING_FACE_HUB_TOKEN STEP37_TOKEN; do
    [ -z "${!name:-}" ] || stop "$name is set, and SLURM stores a job's environment: put the token into a file of mode 600, name" \
      "it by STEP37_TOKEN_FILE, and submit with: env --unset=$name sbatch ..."
  done
  [ -z "${STEP37_HEADERS:-}" ] || stop "STEP37_HEADERS is set, and SLURM stores a job's environment: put \`headers\` into the settings" \
    "file, of mode 600, and submit with: env --unset=STEP37_HEADERS sbatch ..."
}

# Choose where ranks run: set srun_options and prefix, which precede a rank's command. Neither is ever empty, since bash before
# 4.4 treats an empty array as an unbound variable.
choose_runtime() {
  srun_options=() prefix=()
  RUN_IN=${RUN_IN:-venv}
  [ -r "$here/in-$RUN_IN.sh" ] || stop "RUN_IN=$RUN_IN is not known: it is venv, pyxis or apptainer"
  # shellcheck source=in-venv.sh
  . "$here/in-$RUN_IN.sh"
}

random_word() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# Make the secret with which this start's ranks sign what they write to each other, unless the submission has said otherwise: a file
# of its own, or none by STEP37_JOB_SECRET_FILE= (set, and empty). It is in the directory of the job's log, which all nodes must see.
make_secret() {
  secret=
  [ -z "${STEP37_JOB_SECRET_FILE+set}" ] || return 0
  secret=$log_directory/.warmup-$SLURM_JOB_ID-r$restart.secret
  rm -f "$log_directory/.warmup-$SLURM_JOB_ID-r"*.secret # also of a start whose node was lost
  (umask 077 && set -C && random_word >"$secret") || stop "$secret can't be written: name a directory that all nodes see by sbatch --output"
  export STEP37_JOB_SECRET_FILE=$secret
}

# Set the restart count, MASTER_ADDR, MASTER_PORT unless the job has one, and the directory of the job's own log, where it writes its files.
name_job() {
  restart=${SLURM_RESTART_COUNT:-0}
  local log
  log=$(readlink "/proc/$$/fd/1")
  log_directory=$PWD
  [ ! -f "$log" ] || log_directory=$(dirname "$log")
  # Rank 0 runs on the first host of a list such as n[01-03,07]-ib,gpu-1, unless a file of the user arranges the ranks.
  if [ -r "${SLURM_HOSTFILE:-}" ]; then
    read -r MASTER_ADDR <"$SLURM_HOSTFILE"
  else
    MASTER_ADDR=$(sed -E 's/^(([^[,]|\[[^]]*\])*).*/\1/; s/\[([0-9]+)[^]]*\]/\1/g' <<<"$SLURM_JOB_NODELIST")
  fi
  # Below the ports that the kernel gives to clients. A restart takes another one, since a program may hold this one.
  MASTER_PORT=${MASTER_PORT:-$((20000 + (SLURM_JOB_ID + 1009 * restart) % 10000))}
  export MASTER_ADDR MASTER_PORT
  # since 22.05 srun doesn't inherit this from sbatch
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
}
