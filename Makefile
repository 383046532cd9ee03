# make demo | test | check | bench | clean. Each makes .venv first if it is missing: needs make and Python 3.11 or newer.
PYTHON ?= python3
DATA ?= fashion-mnist
MODEL ?= resnet8
EPOCHS ?= 3
BUDGET ?= 60%

VENV := .venv
BIN := $(VENV)/bin
EDGEKIT := $(BIN)/edgekit
INSTALLED := $(VENV)/.installed
DEMO_IMAGES := demo/images
export ORT_DISABLE_TELEMETRY = 1

.PHONY: demo test check bench clean

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; hint: make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	touch $@

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/startup.py

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
