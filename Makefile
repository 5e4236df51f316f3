# Fibrin's front door. `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo drill drill-all test mutate check format lock bench bench-models likeness soak clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.run: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Fibrin's pinned dependencies into $(VENV) (once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# fse-baro brings scikit-learn, matplotlib and pytest with it: only whoever measures beside it installs that.
$(VENV)/.models: $(VENV)/.dev requirements-models.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-models.lock
	@touch $@

demo: $(VENV)/.run ## break a running shop three times and watch the mesh heal it (ARGS="--headless", "--hold", "-o json")
	@$(BIN)/fibrin demo $(ARGS)

DRILLS := build/drills

drill: $(VENV)/.run ## break real meshes in the short set of drills, two minutes (report in build/drills)
	@$(BIN)/fibrin drill run --short --no-certify --report $(DRILLS) $(ARGS)

drill-all: $(VENV)/.run ## every drill there is, about 25 minutes (report in build/drills)
	@$(BIN)/fibrin drill run --all --no-certify --report $(DRILLS) $(ARGS)

test: $(VENV)/.dev ## run every test, real Envoys included
ifeq ($(ARGS),)
	@$(BIN)/python -m pytest -n auto --dist worksteal --ignore tests/integration
	@$(BIN)/python -m pytest tests/integration
else
	@$(BIN)/python -m pytest $(ARGS)
endif

mutate: $(VENV)/.dev ## switch off one safety interlock after the other and show that its attack then succeeds
	@$(BIN)/python -m pytest tests/unit/agent/test_interlocks.py -v --no-header -p no:cacheprovider $(ARGS)

check: $(VENV)/.dev ## lint, types, import rules, format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code in place
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.run ## measure the mesh beside its limits, in one run on this machine
	@$(BIN)/python -m simulations.bench $(ARGS)

DATA ?= ../shared/bench
MODELS := $(BIN)/python -m simulations.judgement

bench-models: $(VENV)/.models ## measure detectors, localiser and canary verdicts beside their peers (ARGS=--quick; DATA: the evaluators' folder)
	@$(MODELS).alarms $(ARGS)
	@$(MODELS).delays $(ARGS)
	@$(MODELS).costs $(ARGS)
	@$(MODELS).canaries $(ARGS)
	@$(MODELS).causes --data $(DATA) $(if $(ARGS),--cases 10)
	@$(MODELS).series --data $(DATA)/data/nab.npz $(ARGS)

soak: $(VENV)/.dev ## kill the agent at each line of its story, overlap five faults for ten minutes, break nothing for thirty (about two hours)
	@$(BIN)/python -m simulations.soak.kills $(ARGS)
	@$(BIN)/python -m simulations.soak.overlap
	@$(BIN)/python -m simulations.soak.quiet

likeness: $(VENV)/.run ## play the same faults on real sidecars and in the simulator, and compare the curves (about two minutes)
	@$(BIN)/python -m simulations.likeness $(ARGS)

lock: ## resolve and pin the dependencies anew (needs uv)
	uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev --extra prometheus --extra postgres -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements-dev.lock
	uv pip compile pyproject.toml --extra models -c requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements-models.lock

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
