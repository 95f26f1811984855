# shellcheck shell=bash disable=SC2034 # the sourcing script reads the two arrays
# Ranks run in a virtual environment on a file system that all nodes share.
#   VENV   its directory (default: the active one, else .venv in the directory from which the job is submitted)
VENV=${VENV:-${VIRTUAL_ENV:-$PWD/.venv}}
[ -x "$VENV/bin/step37-flickr8k" ] || stop "$VENV has no bin/step37-flickr8k: pip install it there, or name another one by VENV"
export PATH=$VENV/bin:$PATH
srun_options=(--export=ALL)
prefix=(env)
