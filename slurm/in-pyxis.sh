# shellcheck shell=bash disable=SC2034,SC2154 # the two arrays are read by whoever sources this, which sets here and folder
# Ranks run in a container that srun starts (NVIDIA's pyxis and enroot).
#   CONTAINER_IMAGE    registry#name:tag, or a squashfs file, with at least one / in its name: ./warmup.sqsh
#   CONTAINER_MOUNTS   SOURCE:TARGET,...: the cache folder and the token file's; the submission's, the logs' and this one come by themselves
[ -n "${CONTAINER_IMAGE:-}" ] || stop "RUN_IN=pyxis needs CONTAINER_IMAGE: registry#name:tag, or a squashfs file such as ./warmup.sqsh"
# What an image sets by ENV beats the job's environment, unless it is named here.
ours=$(compgen -e | { grep -Ei '^(STEP37_|HF_|MASTER_(ADDR|PORT)$|SSL_CERT_|(http|https|no|all)_proxy$)' || true; } | paste -sd, -)
srun_options=(
  --container-image="$CONTAINER_IMAGE"
  --container-mounts="$PWD:$PWD,$folder:$folder,$here:$here${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}"
  --container-workdir="$PWD"
  --no-container-mount-home # packages in ~/.local would shadow the image's
  ${ours:+--container-env="$ours"}
)
prefix=(env)
