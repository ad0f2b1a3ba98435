# Verbs of the project. `make demo` and `make test` need nothing but Python 3.11 or newer and a package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Present once the installation is complete, so that an interrupted one starts again.
INSTALLED := $(VENV)/installed

# Threads that spin while they wait slow a busy machine down many times over.
export OMP_WAIT_POLICY := PASSIVE
# Without bytecode every process would compile torch and Dagster anew, for six seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test ui serve lint bench numerics soak kill-soak screenshots demo-model wheel clean

demo: $(INSTALLED)  ## build the demo study for all its checkpoints
	$(BIN)/gluscope build --study demo

test: $(INSTALLED)  ## run all tests
	$(BIN)/python -m pytest

ui: $(INSTALLED)  ## the Dagster UI over the runs and storage of `make demo`
	$(BIN)/gluscope ui

serve: $(INSTALLED)  ## serve the demo's site on 127.0.0.1
	$(BIN)/gluscope serve --study demo

lint: $(INSTALLED)  ## ruff, mypy and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## what collecting everything costs over the bare forward pass
	$(BIN)/python -m gluscope_assets_tests.benchmarks.collection

numerics: $(INSTALLED)  ## what bfloat16 and int8 do to the results
	$(BIN)/python -m gluscope_assets_tests.benchmarks.numerics

soak: $(INSTALLED)  ## kill a collection 20 times and compare its files with an undisturbed one's
	$(BIN)/python -m gluscope_assets_tests.benchmarks.soak

kill-soak: $(INSTALLED)  ## kill runs, daemon and webserver 30 times and compare the results with an undisturbed build's
	$(BIN)/python -m gluscope_assets_tests.benchmarks.kill

screenshots: $(INSTALLED)  ## pictures of the demo's pages into docs/screenshots
	$(BIN)/python -m gluscope_assets_tests.screenshots

demo-model: $(INSTALLED)  ## train the demo's checkpoints again
	$(BIN)/python -m gluscope_assets.demo.make_demo_model

wheel: $(INSTALLED)  ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:  ## delete what `make demo` built, never the virtual environment
	rm -rf .gluscope build dist *.egg-info

$(INSTALLED): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "GLUScope needs Python 3.11 or newer; name one with make PYTHON=/path/to/python3.")'
	$(PYTHON) -m venv $(VENV)
	# Python compiles what it imports: compiling everything takes longer than downloading it.
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
