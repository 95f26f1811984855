# shellcheck shell=bash disable=SC2034,SC2154 # what one sets the other reads: `here`, the folder of these scripts, is set by whoever sources this
# What the scripts of this folder share.

stop() { # MESSAGE...: end as a configuration error, which is never tried again
  printf '%s\n' "$*" >&2
  exit 2
}

# SLURM keeps the environment of every job on its controller's disk, and where the site says so in its accounting database.
refuse_tokens() {
  local name
  for name in HF_TOKEN HUGGING_FACE_HUB_TOKEN STEP37_TOKEN; do
    [ -z "${!name:-}" ] || stop "$name is set, and SLURM stores a job's environment: put the token into a file of mode 600, name" \
      "it by STEP37_TOKEN_FILE, and submit with: env --unset=$name sbatch ..."
  done
  [ -z "${STEP37_HEADERS:-}" ] || stop "STEP37_HEADERS is set, and SLURM stores a job's environment: put \`headers\` into the settings" \
    "file, of mode 600, and submit with: env --unset=STEP37_HEADERS sbatch ..."
}

# Where ranks run: sets srun_options and prefix, which stand before a rank's command. Neither is ever empty, since to bash before
# 4.4 an empty array is an unbound variable.
choose_runtime() {
  srun_options=() prefix=()
  RUN_IN=${RUN_IN:-venv}
  [ -r "$here/in-$RUN_IN.sh" ] || stop "RUN_IN=$RUN_IN is not known: it is venv, pyxis or apptainer"
  # shellcheck source=in-venv.sh
  . "$here/in-$RUN_IN.sh"
}

# The job as its log and its ranks name it: restart, the meeting point, and the stem of all files that it writes, in the folder of
# its own log.
name_job() {
  restart=${SLURM_RESTART_COUNT:-0}
  local log
  log=$(readlink "/proc/$$/fd/1")
  folder=$PWD
  [ ! -f "$log" ] || folder=$(dirname "$log")
  stem=$folder/$SLURM_JOB_NAME-$SLURM_JOB_ID
  read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # not `| head -1`: its SIGPIPE is a failure under pipefail
  export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))       # below the ports that kernels give away
  # since 22.05 srun doesn't take this from sbatch by itself
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
}
