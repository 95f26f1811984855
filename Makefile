# Works with nothing but python3 with venv. `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
# The index to take torch from; empty: a CPU build, from where pip looks or from PyTorch's index, else a CUDA build (tools/install_torch.py).
TORCH_INDEX_URL ?=
# Another address for PyTorch's public index of CPU builds: a mirror of it, or a test's own.
PYTORCH_CPU_INDEX ?=
# Its dry runs need a pip that reports; some distributions' Python 3.11 brings an older one. Where it isn't older no index is asked.
PIP_WITH_REPORTS := 'pip>=23'
INSTALL_TORCH = tools/install_torch.py --requirement requirements/torch.txt --index-url '$(TORCH_INDEX_URL)' --cpu-index '$(PYTORCH_CPU_INDEX)'
DATA ?=
# The container image: its name, what builds it (docker, podman or buildah; empty: whichever works), what it stands on.
IMAGE ?= step37-flickr8k
ENGINE ?=
BASE_IMAGE ?= docker.io/library/python:3.11-slim-bookworm
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LINT_VENV ?= .venv-lint
LINT_STAMP := $(LINT_VENV)/.installed
COMPARE_VENV ?= .venv-compare
COMPARE_STAMP := $(COMPARE_VENV)/.installed
BENCH_VENV ?= .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
DIST_VENV ?= .venv-dist
DIST_STAMP := $(DIST_VENV)/.installed
# The tests wait more than they compute; each makes its own servers, folders and ports.
SIDE_BY_SIDE := --numprocesses 3 --dist worksteal

.DELETE_ON_ERROR:
.PHONY: help compare demo dist test test-kill test-sharedfs test-fuse test-nfs test-fresh test-slow test-hostile test-slurm image test-image test-k8s clean-image lint-image lint-k8s requirements lint types docs pictures bench bench-barrier bench-fetch bench-readers format clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt requirements/torch.txt tools/install_torch.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_WITH_REPORTS)
	$(BIN)/python $(INSTALL_TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the main job on an embedded Hub: 4 ranks, twice, then 2 training ranks; DATA=<folder> takes your own data
	@$(BIN)/python demo/run.py $(if $(DATA),--data '$(DATA)')

$(DIST_STAMP): requirements/dist.txt
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements/dist.txt
	touch $@

dist: $(DIST_STAMP) ## wheel and sdist of the commit into dist/: reproducible, checked, the wheel tried alone with each Python that is here, and with the oldest and the newest torch
	$(DIST_VENV)/bin/python tools/dist.py

test: $(STAMP) ## all tests but the slow ones, with coverage
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -m 'not slow' $(SIDE_BY_SIDE)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report
	@cat .pytest_cache/d/skipped/lines

test-kill: $(STAMP) ## a hundred runs killed at random moments, ten machines without power; as root for these
	tests/install e2fsprogs
	$(BIN)/python -m pytest tests/ranks/kill_rounds.py

test-slow: $(STAMP) ## the slow tests: real processes killed, frozen, late; the pages in a real browser
	tests/install strace btrfs-progs chromium chromium-driver openmpi-bin mpich
	$(BIN)/python -m pytest -m slow $(SIDE_BY_SIDE)

test-hostile: $(STAMP) ## what strangers could write, mutated by chance; HOSTILE_SEED=<number> makes others
	$(BIN)/python -m pytest tests/hostile $(SIDE_BY_SIDE)

test-sharedfs: $(STAMP) ## the cache on late, full and failing FUSE mounts, and on a Linux NFS server with two clients; as root
	tests/install user-mode-linux nfs-kernel-server nfs-common rpcbind busybox-static iproute2 fuse3 gcc libc6-dev
	$(MAKE) --no-print-directory --jobs=2 --output-sync test-fuse test-nfs

test-fuse: $(STAMP) # one half of test-sharedfs: side by side, since each waits most of its time
	$(BIN)/python -m pytest tests/sharedfs --ignore=tests/sharedfs/test_nfs.py

test-nfs: $(STAMP) # the other
	$(BIN)/python -m pytest tests/sharedfs/test_nfs.py

test-fresh: $(STAMP) ## the first two commands on bare Debians, as an ordinary user; as root with CAP_SYS_ADMIN; SUITES=bookworm takes one
	tests/fresh/run '$(abspath $(BIN)/python)' $(SUITES)

test-slurm: $(STAMP) ## the SLURM scripts on a real cluster of 12 nodes on this machine; as root
	tests/slurm/run '$(abspath $(BIN)/python)'

image test-image test-k8s clean-image: export IMAGE := $(IMAGE)
image test-image test-k8s clean-image: export ENGINE := $(ENGINE)
image test-image test-k8s clean-image: export BASE_IMAGE := $(BASE_IMAGE)
dist image test-k8s: export TORCH_INDEX_URL := $(TORCH_INDEX_URL)
dist image test-k8s: export PYTORCH_CPU_INDEX := $(PYTORCH_CPU_INDEX)

image: ## the container image, by docker, podman or buildah; TORCH_INDEX_URL, BASE_IMAGE, IMAGE and ENGINE choose
	tools/image build

test-image: $(STAMP) ## the image in real containers of podman, as root: users, read-only, SIGTERM, four ranks; what its layers take
	tests/image/install
	$(BIN)/python -m pytest tests/image

test-k8s: $(STAMP) ## the manifests on a real cluster: KUBECONFIG's, else one that RIGS=<folder> starts on this machine, as root
	tests/k8s/run '$(abspath $(BIN)/python)'

clean-image: ## remove the image and all that building it left
	tools/image clean

$(LINT_STAMP): requirements/lint.txt
	$(PYTHON) -m venv $(LINT_VENV)
	$(LINT_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements/lint.txt
	touch $@

lint-image: $(LINT_STAMP) ## hadolint and checkov on the Dockerfile, pip-audit on what the image holds
	$(LINT_VENV)/bin/hadolint Dockerfile
	$(LINT_VENV)/bin/checkov --file Dockerfile --framework dockerfile --skip-download --quiet --compact
	tools/audit $(LINT_VENV)/bin/pip-audit

lint-k8s: $(LINT_STAMP) ## checkov on every overlay of k8s/, built
	tools/lint-k8s $(LINT_VENV)/bin/checkov

PIN = $(LINT_VENV)/bin/uv pip compile --quiet --upgrade --no-annotate --custom-compile-command 'make requirements'
# The image's Python, and any Python from 3.11: where a release suits only some of them, the file has one for each.
ONE_PYTHON := --python-version 3.11 --python-platform linux
EACH_PYTHON := --universal --python-version 3.11

requirements: $(LINT_STAMP) ## renew constraints.txt and requirements/*.txt: the newest of all but torch, which requirements/torch.txt names
	$(PIN) $(EACH_PYTHON) --extra dev --excludes requirements/torch.txt --output-file constraints.txt pyproject.toml requirements/torch-needs.in
	cat requirements/torch.txt >>constraints.txt
	$(PIN) $(ONE_PYTHON) --generate-hashes --constraint constraints.txt --extra parquet --output-file requirements/image.txt pyproject.toml requirements/torch-needs.in
	$(PIN) $(ONE_PYTHON) --generate-hashes --output-file requirements/build.txt requirements/build.in
	$(PIN) $(EACH_PYTHON) --generate-hashes --constraint requirements/build.txt --output-file requirements/dist.txt requirements/dist.in
	$(PIN) $(EACH_PYTHON) --constraint constraints.txt --excludes requirements/torch.txt --output-file requirements/compare.txt requirements/compare.in
	$(PIN) $(EACH_PYTHON) --generate-hashes --output-file requirements/lint.txt requirements/lint.in

lint: $(STAMP) ## ruff and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck .ci/run tests/install tests/fresh/run tests/fresh/without-torch tools/audit tools/image tools/kubectl tools/lint-k8s tests/image/install tests/image/stand-in-base tests/sharedfs/nfs/run tests/sharedfs/nfs/init
	$(BIN)/shellcheck --external-sources --source-path=SCRIPTDIR slurm/*.sbatch slurm/*.sh slurm/chain tests/slurm/run tests/slurm/cluster tests/k8s/run

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

docs: $(STAMP) ## the documentation as a site, into site/; then what it shows and no test runs, and the links that nobody follows
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@printf '\nshown, but not run (docs/not-run.txt):\n' && cat docs/not-run.txt
	@printf '\nlinks to elsewhere, not checked:\n' && grep -rnoE --include='*.md' '\]\(https?://[^)]+\)' README.md docs || true

pictures: $(STAMP) ## the pictures of the README, made anew; as root on Debian it installs the browser
	tests/install chromium chromium-driver
	PYTHONPATH=.:demo $(BIN)/python tools/pictures.py $(if $(DATA),--data '$(DATA)')

bench: bench-barrier bench-fetch bench-readers ## all benchmarks

bench-barrier: $(STAMP) ## how fast the outcome, and a death, reach all ranks
	TORCH_CPP_LOG_LEVEL=FATAL $(BIN)/python benchmarks/barrier.py

$(BENCH_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[parquet]'
	touch $@

bench-fetch: $(BENCH_STAMP) ## how fast a cache is filled, beside the usual ways; needs nginx with its echo module, curl, aria2c; DATA=<folder>
	PYTHONPATH=demo $(BENCH_VENV)/bin/python benchmarks/fetch.py $(if $(DATA),--data '$(DATA)')

bench-readers: $(BENCH_STAMP) ## what reading a warm cache of 60,000 and of 1,000,000 rows costs: processor time and memory
	$(BENCH_VENV)/bin/python benchmarks/readers.py

$(COMPARE_STAMP): pyproject.toml constraints.txt requirements/compare.txt requirements/torch.txt tools/install_torch.py
	$(PYTHON) -m venv $(COMPARE_VENV)
	$(COMPARE_VENV)/bin/python -m pip install --quiet $(PIP_WITH_REPORTS)
	$(COMPARE_VENV)/bin/python $(INSTALL_TORCH)
	$(COMPARE_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --requirement requirements/compare.txt --editable .
	touch $@

compare: $(COMPARE_STAMP) ## what the usual ways do with the same faults, into docs/comparison.md and README.md; needs gcc; in an environment of its own
	PYTHONPATH=demo $(COMPARE_VENV)/bin/python benchmarks/compare.py --write

format: $(STAMP) ## let ruff write the files as `lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, all caches, the logs of failed tests and what the demo left
	rm -rf $(VENV) $(LINT_VENV) $(BENCH_VENV) $(DIST_VENV) $(COMPARE_VENV) dist site test-logs demo-output .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
