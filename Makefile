# Everything here sets itself up in a virtual environment inside the checkout (.venv).
#   make demo    two reference pictures become an edited one, on the embedded model
#   make test    style, types and the whole test suite
#   make serve   the graph editor in the browser, http://127.0.0.1:8188
#   make check   style and types only
#   make hosts   the tests that need a host, on every ComfyUI that COMFYUI_DIRS names; docs/hosts.md
#   make faults  plants faults in nodes/native, in a copy, and expects the tests to find each
#   make attack  damaged prompts and requests against the host, damaged files, kills, cancels: COUNT=20000 SEED=0
#   make clean   remove the virtual environment and what the demo wrote

PYTHON ?= python3
# On Linux a plain torch brings CUDA libraries; point TORCH at a CPU wheel to save the download.
TORCH ?= torch==2.13.0
PORT ?= 8188
# Files of tests run at a time; each takes up to 3 GB.
JOBS ?= 2
# How many requests and files `make attack` tries, how many writers it kills,
# how many jobs it sends and cancels, and from which seed.
COUNT ?= 20000
KILLS ?= 200
RUNS ?= 1000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
HOST := $(BIN)/python -m standalone

.PHONY: demo test serve check hosts faults attack clean
.DELETE_ON_ERROR:

demo: $(VENV)/run.ready
	$(HOST) run workflows/api/two_references.json --output output --sheet output/two_references_sheet.png

serve: $(VENV)/run.ready
	$(HOST) serve --port $(PORT)

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile

check: $(VENV)/test.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error

# The table is written however the tests end, and never out of an earlier run's results.
hosts: $(VENV)/test.ready
	@rm -f $(VENV)/hosts.xml
	OMP_NUM_THREADS=2 $(BIN)/pytest tests/api tests/native tests/batch tests/web \
		--junitxml=$(VENV)/hosts.xml; status=$$?; \
	$(BIN)/python tests/support/hosts_table.py $(VENV)/hosts.xml && exit $$status

faults: $(VENV)/test.ready
	$(BIN)/python tests/faults/plant.py

attack: $(VENV)/test.ready
	$(BIN)/python -m tests.attack requests --count $(COUNT) --seed $(SEED)
	$(BIN)/python -m tests.attack files --count $(COUNT) --seed $(SEED)
	$(BIN)/python -m tests.attack kills --count $(KILLS) --seed $(SEED)
	$(BIN)/python -m tests.attack jobs --count $(RUNS) --seed $(SEED)

$(VENV)/run.ready: requirements.txt standalone/requirements.txt pyproject.toml
	@sh standalone/setup.sh "$(PYTHON)" "$(VENV)"
	@echo "Installing torch and the embedded host (once, some minutes) ..."
	@$(PIP) "$(TORCH)"
	@$(PIP) -r standalone/requirements.txt
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/test.ready: $(VENV)/run.ready tests/requirements.txt tests/setup.sh
	@echo "Installing what the tests need (once) ..."
	@$(PIP) -r tests/requirements.txt
	@sh tests/setup.sh "$(VENV)"
	@touch $@

clean:
	rm -rf $(VENV) output temp
