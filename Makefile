# Two commands matter: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOB ?= jobs/physics/quick.yaml
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Tests start many processes: modules are compiled once, whatever the caller's shell says.
test test-unit test-shuffled test-nightly: export PYTHONDONTWRITEBYTECODE :=

SEED ?= 1
PROCESSES ?= 2

.PHONY: train test test-unit test-shuffled test-nightly lint format render clean

train: $(VENV)/.installed            ## train a small world model on simulated physics and register it
	$(BIN)/orchestrator run $(JOB)

# Two side by side; a file's tests stay together, they share what they set up. Of the others most
# wait for processes to start.
BESIDE = --numprocesses $(PROCESSES) --dist loadfile
UNIT = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not integration and not gpu and not nightly" $(BESIDE)

test: $(VENV)/.installed-dev         ## every test that runs without a GPU
	$(UNIT)
	$(BIN)/python -m pytest -m "integration and not gpu and not nightly" --durations 20 $(BESIDE)

test-unit: $(VENV)/.installed-dev    ## the quick ones: no Ray, no servers, no processes of their own
	$(UNIT)

test-shuffled: $(VENV)/.installed-dev ## the quick ones in another order: SEED=7 PROCESSES=3
	$(UNIT) --shuffle $(SEED) --no-loadscope-reorder

test-nightly: $(VENV)/.installed-dev ## the ones that take minutes, and fuzzing with a new seed
	$(BIN)/python -m pytest -m "nightly" --fuzz new --timeout=3600

lint: $(VENV)/.installed-dev         ## types, style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy orchestrator
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

RENDER := $(BIN)/orchestrator cluster render

render: $(VENV)/.installed           ## the files under cluster/rendered, after a change of profiles or renderer
	$(RENDER) kuberay --out cluster/rendered/kuberay
	$(RENDER) kuberay jobs/physics/quick.yaml --out cluster/rendered/kuberay-job
	$(RENDER) onprem --out cluster/rendered/onprem
	$(RENDER) aws --out cluster/rendered/aws
	$(RENDER) gcp --out cluster/rendered/gcp
	cp cluster/rendered/kuberay/Dockerfile cluster/Dockerfile
	rm cluster/rendered/*/Dockerfile

clean:                               ## the environment; never .orchestrator, where your runs are
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@
