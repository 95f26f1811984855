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

# Set the restart count, MASTER_ADDR and MASTER_PORT, and the stem of all files that the job writes, in the directory of its own log.
name_job() {
  restart=${SLURM_RESTART_COUNT:-0}
  local log
  log=$(readlink "/proc/$$/fd/1")
  log_directory=$PWD
  [ ! -f "$log" ] || log_directory=$(dirname "$log")
  stem=$log_directory/$SLURM_JOB_NAME-$SLURM_JOB_ID
  read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # not `| head -1`: its SIGPIPE is a failure under pipefail
  export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))       # below the kernel's ephemeral ports
  # since 22.05 srun doesn't inherit this from sbatch
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
}
