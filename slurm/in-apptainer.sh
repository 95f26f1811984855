# shellcheck shell=bash disable=SC2034,SC2154 # the sourcing script reads the two arrays, and sets here and log_directory
# Ranks run in a container that apptainer starts; the job's environment overrides the image's.
#   CONTAINER_IMAGE    warmup.sif, docker://registry/name:tag, ...
#   CONTAINER_MOUNTS   SOURCE:TARGET,...: the cache directory and the token file's; those of submission, logs and scripts are always mounted
[ -n "${CONTAINER_IMAGE:-}" ] || stop "RUN_IN=apptainer needs CONTAINER_IMAGE: warmup.sif, or docker://registry/name:tag"
mounts=$PWD,$log_directory,$here${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
[ ! -d "${HF_HOME:-}" ] || mounts+=,$HF_HOME
srun_options=(--export=ALL)
prefix=(apptainer exec --no-home --pwd "$PWD" --bind "$mounts" "$CONTAINER_IMAGE") # no home: ~/.local would shadow the image's packages
