# make install | demo | test | check | bench | clean. Each but the last makes .venv first if it is missing: needs make and Python 3.11 or newer.
PYTHON ?= python3

# What the demo runs on. Other data: make demo DATA=folder INPUT=3x32x32 CLASSES=5 IMAGES=folder/test
DATA ?= fashion-mnist
INPUT ?= 1x28x28
CLASSES ?= 10
IMAGES ?= /usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz
MODEL ?= resnet8
EPOCHS ?= 4
BUDGET ?= 50%
LIMIT ?= 24000

VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS ?= $(filter-out tests/benchmarks/table.py tests/benchmarks/ten_units.py,$(sort $(wildcard tests/benchmarks/*.py)))
# The full length takes hours: make bench BENCH_OPTIONS=
BENCH_OPTIONS ?= --quick
EDGEKIT := ../$(BIN)/edgekit
INSTALLED := $(VENV)/.installed
export ORT_DISABLE_TELEMETRY = 1

.PHONY: install demo test check bench clean

install: $(INSTALLED)
	@echo "edgekit is $(BIN)/edgekit; or: . $(BIN)/activate"

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
	$(BIN)/python -m pytest -n 2 --dist loadgroup

bench: $(INSTALLED)
	for benchmark in $(BENCHMARKS); do echo; echo "$$benchmark"; $(BIN)/python $$benchmark $(BENCH_OPTIONS) || exit 1; done

# From a name to a model that fits, each step an edgekit command; everything lands in ./demo.
demo: $(INSTALLED)
	@if $(BIN)/edgekit doctor | grep -qE '^data $(DATA) +absent'; then \
		echo "error: the demo needs the data $(DATA), which is not on this machine" >&2; \
		echo "hint: see \`$(BIN)/edgekit doctor\`, or: make demo DATA=FOLDER INPUT=3x32x32 CLASSES=5 IMAGES=FOLDER" >&2; \
		exit 3; fi
	rm -rf demo && mkdir demo
	cd demo && $(EDGEKIT) profile --model $(MODEL) --input $(INPUT) --classes $(CLASSES)
	cd demo && $(EDGEKIT) train --model $(MODEL) --data $(DATA) --budget $(BUDGET) --epochs $(EPOCHS) --limit $(LIMIT) --name demo
	cd demo && $(EDGEKIT) export demo --runtime onnx --format int8 --output chosen-int8.onnx
	cd demo && $(EDGEKIT) bench runs/demo/models/dense-fp32.onnx runs/demo/models/chosen-fp32.onnx chosen-int8.onnx
	cd demo && $(EDGEKIT) run runs/demo/models/chosen-fp32.onnx $(IMAGES) --output labels.csv
	cd demo && $(EDGEKIT) report demo --output report.html
	@echo "see demo/report.html"

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
