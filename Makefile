# `make demo` and `make test` set up a fresh machine by themselves (Python 3.11 or newer, its venv module; Java for METEOR).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK ?=
WORKERS ?= 2
TOGETHER := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup demo demo-models docs test test-fast test-slow test-long test-matrix lint bench clean gpu-proof

# A stamp per set of extras makes the second call a matter of seconds: it is older than setup.cfg only after a change
# of requirements.
define install
	@echo "Installing into $(VENV): some minutes, about 6 GB"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=69"
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$(1)]"
	touch $@
endef

$(VENV)/.demo: setup.cfg pyproject.toml
	$(call install,demo)

$(VENV)/.dev: setup.cfg pyproject.toml
	$(call install,dev)

$(VENV)/.docs: setup.cfg pyproject.toml
	$(call install,docs)

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/clinkd demo --directory runs/demo$(if $(QUICK),-quick) $(if $(QUICK),--quick)

# Fast and slow tests together, a file at a time on each worker, a thread for each: two cores are busy all the time.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(TOGETHER) -m "not long"

test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(TOGETHER) -m "not slow and not long"

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(TOGETHER) -m "slow and not long"

test-long: setup
	$(BIN)/python -m pytest -q -m long

# Other versions of Python, LLaMA-Factory and transformers, in environments of their own below MATRIX, which lies outside of
# the checkout (8 GB each, one at a time): docs/compatibility.md. `ONLY=3.13/main/5.8.0` runs one, `TESTS=...` some tests.
test-matrix:
	$(PYTHON) tests/run_matrix.py $(or $(MATRIX),$(error set MATRIX to a folder outside of the checkout)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(TESTS),--tests $(TESTS))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/clinkd doctor --seams
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The site, with all links checked and without a network, into build/site/index.html.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	for script in benchmarks/*.py; do case $$script in */memory.py) ;; *) $(BIN)/python $$script ;; esac || exit 1; done

clean:
	rm -rf $(VENV) runs build *.egg-info

# Draws the data and trains the models that llamafactory_clinkd/demo ships, into runs/demo-models (about an hour);
# `SHORT=1 make demo-models` tries every step of it in two minutes, into runs/demo-models-short.
demo-models: setup
	PYTHON=$(BIN)/python benchmarks/miniature/demo/rebuild.sh

# What the package does on one CUDA device, in at most twelve minutes: a JSON file and a table in runs/gpu-proof.
gpu-proof:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_proof.py
