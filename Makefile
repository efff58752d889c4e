# `make train` and `make test` are all a newcomer needs; each sets up what it uses, in .venv.
.DEFAULT_GOAL := help
.PHONY: help train test setup check format lint types bench bench-peers soak fuzz lock clean
BIN := .venv/bin
SECONDS ?= 120
TRAIN_ENV ?= dm_control/cartpole-swingup
# Less work per env step than the preset's; renormalisation early, as small batches are noisy.
TRAIN_OPTIONS ?= --updates-per-env-step 1 --batch-size 64 --critic.hidden-dim 128 \
  --policy.hidden-dim 64 --policy.num-denoising-steps 5 --policy.learning-rate 1e-3 \
  --critic.learning-rate 1e-3 --critic.renorm-warmup-updates 1000 --evaluate-every 10000

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' $(MAKEFILE_LIST)

train:  ## train DIME on dm_control/cartpole-swingup (2 to 4 minutes on two cores)
	@scripts/setup train
	@$(BIN)/dime train $(TRAIN_ENV) --preset laptop $(TRAIN_OPTIONS)

setup:  ## install everything: all extras and the development tools
	@scripts/setup all

test: setup  ## run every behaviour's tests once, in minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup  ## format, lint, types, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(MAKE) test

format: setup  ## format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## time updates, acting and the loop on this machine
	$(BIN)/dime benchmark

bench-peers:  ## CrossQ here and of SBX in turn, in .venv-peers (installs PyTorch, 6 GB)
	@scripts/setup peers
	.venv-peers/bin/python benchmarks/peers.py

soak: setup  ## test every promise (docs/promises.md), with the long tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "promise or soak" -q

fuzz: setup  ## fuzz the readers of a run's files (SECONDS=20 for each target)
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.fuzz.fuzz_readers --seconds $(SECONDS)

lock:  ## update the pinned dependencies (needs uv)
	scripts/lock

clean:  ## remove .venv and caches, never runs
	rm -rf .venv .venv-peers .test-cache .pytest_cache .ruff_cache .hypothesis build dist
