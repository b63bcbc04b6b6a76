# Two commands do everything: `make demo` and `make test`. The others are for those who change the code.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# files of tests that run at once: most of them wait for something half of their time
TEST_WORKERS ?= 2

export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test lint docs format wheel clean browser slurm

demo: $(VENV)/.installed ## the whole line on the embedded sample
	$(BIN)/iberlm run pipeline=demo

test: $(VENV)/.installed-dev browser slurm ## all tests
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff, mypy, import contracts, data cards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/iberlm cards validate

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## the documentation site, in site/
	$(BIN)/mkdocs build --strict --quiet

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel

# torch comes first: DeepSpeed's build imports it, and without the pin pip may choose a CUDA build of several GB
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "IberLM needs Python 3.11 or newer; choose one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 setuptools wheel ninja py-cpuinfo
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation deepspeed
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

browser: # the report's tests open it in a real browser
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  test "$$(id -u)" = 0 || { echo "make test opens the report in Chromium: install it first (apt-get install chromium)"; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium </dev/null; }

slurm: # the tests of launching submit to a real Slurm, which they bring up themselves
	@PATH="$$PATH:/usr/sbin"; missing=; for program in slurmctld slurmd sbatch munged shellcheck; do command -v $$program >/dev/null || missing=yes; done; test -z "$$missing" || \
	  if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge shellcheck </dev/null; \
	  else echo "make test SKIPS the tests on Slurm: they need root and apt-get install slurmctld slurmd slurm-client munge shellcheck"; fi

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .hypothesis
