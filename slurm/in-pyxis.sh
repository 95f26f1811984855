# shellcheck shell=bash disable=SC2034,SC2154 # the sourcing script reads the two arrays, and sets here and log_directory
# Ranks run in a container that srun starts (NVIDIA's pyxis and enroot).
#   CONTAINER_IMAGE    registry#name:tag, or a squashfs file, with at least one / in its name: ./warmup.sqsh
#   CONTAINER_MOUNTS   SOURCE:TARGET,...: the cache directory and the token file's; those of submission, logs and scripts are always mounted
[ -n "${CONTAINER_IMAGE:-}" ] || stop "RUN_IN=pyxis needs CONTAINER_IMAGE: registry#name:tag, or a squashfs file such as ./warmup.sqsh"
# An ENV of the image overrides the job's variable, unless it is named here.
job_variables=$(compgen -e | { grep -Ei '^(STEP37_|HF_|MASTER_(ADDR|PORT)$|SSL_CERT_|(http|https|no|all)_proxy$)' || true; } | paste -sd, -)
srun_options=(
  --container-image="$CONTAINER_IMAGE"
  --container-mounts="$PWD:$PWD,$log_directory:$log_directory,$here:$here${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}"
  --container-workdir="$PWD"
  --no-container-mount-home # packages in ~/.local would shadow the image's
  --export=ALL # also where sbatch was given --export=LIST
  ${job_variables:+--container-env="$job_variables"}
)
prefix=(env)
