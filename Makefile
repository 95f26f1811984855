# Works with nothing but python3 with venv. `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
# Where torch's build comes from; empty: wherever pip looks. TORCH_BUILD=any takes whatever comes, CUDA too.
TORCH_INDEX_URL ?=
TORCH_BUILD ?= cpu
DATA ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: help demo test test-kill test-sharedfs test-slow test-slurm lint types bench bench-barrier bench-fetch format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt tools/check_torch_build.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/check_torch_build.py --constraints constraints.txt --build '$(TORCH_BUILD)' --index-url '$(TORCH_INDEX_URL)'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX_URL),--index-url '$(TORCH_INDEX_URL)') torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the main job on an embedded Hub: 4 ranks, twice, then 2 training ranks; DATA=<folder> takes your own data
	$(BIN)/python demo/run.py $(if $(DATA),--data '$(DATA)')

test: $(STAMP) ## all tests but the slow ones, with coverage
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -m 'not slow'
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-kill: $(STAMP) ## a hundred runs killed at random moments, ten machines without power; as root for these
	tests/install e2fsprogs
	$(BIN)/python -m pytest tests/kill_rounds.py

test-slow: $(STAMP) ## the slow tests: real processes killed, frozen, late
	tests/install strace btrfs-progs
	$(BIN)/python -m pytest -m slow

test-sharedfs: $(STAMP) ## the cache on late, full and failing FUSE mounts, and on a Linux NFS server with two clients; as root
	tests/install user-mode-linux nfs-kernel-server nfs-common rpcbind busybox-static iproute2 fuse3
	$(BIN)/python -m pytest tests/sharedfs
test-slurm: $(STAMP) ## the SLURM scripts on a real cluster of 12 nodes on this machine; as root
	tests/slurm/run '$(abspath $(BIN)/python)'

lint: $(STAMP) ## ruff and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck .ci/run tests/install tests/sharedfs/nfs/run tests/sharedfs/nfs/init
	$(BIN)/shellcheck --external-sources --source-path=SCRIPTDIR slurm/*.sbatch slurm/*.sh slurm/chain tests/slurm/run tests/slurm/cluster

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

bench: bench-barrier bench-fetch ## all benchmarks

bench-barrier: $(STAMP) ## how fast the outcome, and a death, reach all ranks
	TORCH_CPP_LOG_LEVEL=FATAL $(BIN)/python benchmarks/barrier.py

bench-fetch: $(STAMP) ## how fast a cache is filled, beside the usual ways; needs nginx with its echo module, curl, aria2c; DATA=<folder>
	PYTHONPATH=demo $(BIN)/python benchmarks/fetch.py $(if $(DATA),--data '$(DATA)')

format: $(STAMP) ## let ruff write the files as `lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and all caches
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
