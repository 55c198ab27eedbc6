# Two commands do everything on a machine that has only Python 3.10 (or later) and make:
#   make demo   virtual environment, torch, install, then the main job: minutes on two cores, no download of data
#   make test   the same set-up, then the tests
# Both can be called in any order and again; what is there is not installed twice.

PYTHON ?= python3
VENV ?= .venv
# Without an NVIDIA GPU the CPU build of torch comes first and pinned: left to the dependencies of fastmux, pip may
# pick a newer CUDA build, gigabytes of it.
TORCH ?= 2.13.0
# More arguments of the program that is run: make demo ARGS="--agreement 0.98", make test ARGS=tests/test_backends.py
ARGS ?=
WORKERS ?= 2

# The oldest versions that setup.py allows. There is no CPU build of torch 2.11 everywhere: OLDEST_TORCH=2.11.0 asks for
# it, or for the CUDA build where only that is to be had.
OLDEST_VENV ?= $(VENV)-oldest
OLDEST_TORCH ?= $(TORCH)
# Triton 3.6's interpreter does not work with NumPy 2.4.
OLDEST ?= transformers==5.17.0 triton==3.6.0 'numpy<2.4'
# The newest ones that an index is known to have; NEWEST_TORCH=2.15.0 asks for another.
NEWEST_VENV ?= $(VENV)-newest
NEWEST_TORCH ?= 2.14.1
NEWEST ?= --upgrade transformers triton
OLDEST_TESTS ?= tests/test_published.py tests/test_checkpoints.py tests/passes/test_grouping.py tests/passes/test_packed.py tests/functional/test_hadamard_mux.py

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types coverage test-oldest test-newest docs clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(VENV)/installed ## a virtual environment with fastmux and all that its tests need

demo: setup ## the main job: train, search for a faster model and label, on text that every Python carries
	@echo "== main job: training/demo.py $(ARGS); its files go to runs/"
	$(BIN)/python training/demo.py $(ARGS)

test: setup ## the tests, on two processes
	@echo "== tests, on $(WORKERS) processes"
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: setup ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy on fastmux/
	$(BIN)/python -m mypy

coverage: setup ## lines that the tests run, as a table
	HF_HUB_OFFLINE=1 $(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-oldest: $(OLDEST_VENV)/installed ## a selection of the tests on the oldest versions that are supported
	$(call test-versions,$(OLDEST_VENV),$(OLDEST_TESTS))

test-newest: $(NEWEST_VENV)/installed ## the ops and a selection of the tests on the newest versions
	$(call test-versions,$(NEWEST_VENV),$(OLDEST_TESTS) tests/functional/test_op_contract.py tests/test_model_on_device.py tests/passes)

docs: setup ## the documentation, as a site in site/
	$(BIN)/python -m mkdocs build --strict

clean: ## remove the virtual environments; runs/ stays
	rm -rf $(VENV) $(OLDEST_VENV) $(NEWEST_VENV)

# The mark is made last: an installation that broke off is taken up again.
$(VENV)/installed: setup.py
	@echo "== virtual environment in $(VENV): torch, fastmux and what its tests need (minutes, the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(call install-torch,$(BIN),$(TORCH))
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@$(BIN)/python -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
	@touch $@

# What is the same in all environments lies in the first alone, which the others find behind their own packages. Only
# another torch is installed once more.
$(OLDEST_VENV)/installed: $(VENV)/installed
	$(call install-behind,$(OLDEST_VENV),$(OLDEST_TORCH),$(OLDEST))
	@touch $@

$(NEWEST_VENV)/installed: $(VENV)/installed
	$(call install-behind,$(NEWEST_VENV),$(NEWEST_TORCH),$(NEWEST))
	@touch $@

# $(1) environment, $(2) its torch, $(3) its other packages.
define install-behind
	@echo "== virtual environment in $(1): torch $(2), $(3)"
	$(PYTHON) -m venv --without-pip $(1)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth"
	$(if $(filter-out $(TORCH),$(2)),$(call install-torch,$(1)/bin,$(2)))
	$(1)/bin/python -m pip install --quiet $(3)
endef

# $(1) environment, $(2) tests.
define test-versions
	$(1)/bin/python -c 'import torch, transformers, triton; print("torch", torch.__version__, \
	    "transformers", transformers.__version__, "triton", triton.__version__)'
	HF_HUB_OFFLINE=1 $(1)/bin/python -m pytest -n $(WORKERS) $(2)
endef

# $(1) bin folder, $(2) version. The local version +cpu is the build without CUDA where an index has it.
define install-torch
	@if nvidia-smi --list-gpus >/dev/null 2>&1; then echo "== an NVIDIA GPU: torch as fastmux asks for it"; else \
	    echo "== no NVIDIA GPU: the CPU build of torch $(2)"; \
	    $(1)/python -m pip install --quiet "torch==$(2)+cpu" 2>/dev/null || { \
	        echo "== the package index has none of that name: its torch $(2), which on Linux may be gigabytes of CUDA;"; \
	        echo "   with PIP_EXTRA_INDEX_URL set to PyTorch's index of CPU builds it would be 200 MB"; \
	        $(1)/python -m pip install --quiet "torch==$(2)"; }; \
	fi
endef
