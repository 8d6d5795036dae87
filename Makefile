# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv by itself;
# a second run installs nothing, since the stamps below stand for the files they were made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# GCC before 14 leaves out most of the tile configuration that llama.cpp's AMX kernels load (GCC's bug 114098), and the
# first prompt ends the process with an illegal instruction. On such a machine llama.cpp is built here, without AMX.
NO_AMX := $(shell grep -qsw amx_tile /proc/cpuinfo && ! cc --version 2>/dev/null | grep -q clang && \
  [ "$$(cc -dumpversion 2>/dev/null | cut -d. -f1)" -lt 14 ] && echo -mno-amx-tile -mno-amx-int8 -mno-amx-bf16)

.PHONY: demo test test-fast lint bench docs clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; run: make PYTHON=python3.12 demo" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(if $(NO_AMX),CMAKE_ARGS="-DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)'" \
	  $(PIP) install --no-cache-dir --no-binary llama-cpp-python -c constraints.txt llama-cpp-python)
	$(PIP) install -c constraints.txt -e '.[train,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/stellar quickstart --dir demo

# These tests compute, each on one core: two at a time. The others wait for terminals and count what threads do.
TWO_AT_A_TIME := $(addprefix tests/,train convert engine native plan render evaluate tables)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(TWO_AT_A_TIME:%=--ignore %)
	@$(BIN)/python -m pytest -n 2 $(TWO_AT_A_TIME)

test-fast: $(VENV)/.dev
	@$(BIN)/python -m pytest -m 'not real'

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# What the benchmarks share; the other files there are scripts.
BENCH_MODULES := $(addprefix benchmarks/,machine.py peers.py batch_engine.py batch_prompts.py one_setting.py \
  random_gguf.py random_base.py zero_gguf.py made_vocabulary.py nvml.py readings.py plan_measure.py)

bench: $(VENV)/.dev
	@for script in $(filter-out $(BENCH_MODULES),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

docs: $(VENV)/.dev
	@$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) demo
