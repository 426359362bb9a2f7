# make demo    set up, film the bundled place, write out/demo.mp4
# make test    set up, run the tests of the pack (host tests where COMFYUI_PATH and COMFYUI_PYTHON are set) and the studio
# make check   formatting, lint, types
# make lint    the same without setting up
# make bench   every benchmark of the pack and the studio; results go to benchmarks/results, training/benchmarks/results
#              and training/docs

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check lint bench clean

demo: $(VENV)/.ready
	$(BIN)/cinescene demo --out out/demo.mp4

test: $(VENV)/.ready
	$(BIN)/pytest
	cd training && $(abspath $(BIN))/pytest

check: $(VENV)/.ready lint

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd training && $(abspath $(BIN))/ruff format --check . && $(abspath $(BIN))/ruff check . && $(abspath $(BIN))/mypy

bench: $(VENV)/.ready
	for script in benchmarks/*.py training/benchmarks/*.py; do $(BIN)/python $$script || exit 1; done
	$(BIN)/python -m benchmarks.wall_time
	$(BIN)/python -m benchmarks.gpu

# torch goes in first: it is the largest download by far. On Linux pip's default build of it is the one for CUDA;
# pip's own settings can name another index, and a torch 2.13.0 that already stands in .venv is kept.
$(VENV)/.ready: pyproject.toml training/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet -e '.[cli,dev]' -e 'training[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) out
