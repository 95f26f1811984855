# shellcheck shell=bash disable=SC2034,SC2154 # the two arrays are read by whoever sources this, which sets here and folder
# Ranks run in a container that apptainer starts; the job's environment beats the image's.
#   CONTAINER_IMAGE    warmup.sif, docker://registry/name:tag, ...
#   CONTAINER_MOUNTS   SOURCE:TARGET,...: the cache folder and the token file's; the submission's, the logs' and this one come by themselves
[ -n "${CONTAINER_IMAGE:-}" ] || stop "RUN_IN=apptainer needs CONTAINER_IMAGE: warmup.sif, or docker://registry/name:tag"
mounts=$PWD,$folder,$here${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
[ ! -d "${HF_HOME:-}" ] || mounts+=,$HF_HOME
srun_options=(--export=ALL)
prefix=(apptainer exec --no-home --pwd "$PWD" --bind "$mounts" "$CONTAINER_IMAGE") # no home: ~/.local would shadow the image's packages
