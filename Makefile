# Thaw. `make study` runs the embedded study, `make test` the tests; both need only Python 3.11 or later, make and git.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
STUDY ?= quick
# The study that was asked for; empty where none was.
ONE = $(if $(filter-out file,$(origin STUDY)),$(STUDY))
FOLDER :=
NAME :=
MINUTES := 60
BASE ?= HEAD
BIN := .venv/bin
BENCH ?= reports/benchmarks/bench.json
BENCH_LIMIT ?= 30%
BENCHMARK = python -m pytest -o addopts= tests/benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds
CELLS ?= 3
OUT ?= predictions.csv
unexport PYTHONDONTWRITEBYTECODE # a study starts Python 25 times: compiling torch and mlflow anew takes seconds each time
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Reports hold − and ×, whatever the locale.
export PYTHONUTF8 := 1
export FOLDER NAME MINUTES # quoted by the shell, whatever they hold
export MLFLOW_TRACKING_URI ?= sqlite:///mlflow.db

.PHONY: study own repository test test-faults lint lock ui mirror model predict verify report guide readme pack prune bench bench-save bench-compare bench-growth bench-peers regress clean .venv

study: repository $(BIN)/.installed ## check, run STUDY (without it, the active studies), print the answer
	$(if $(ONE),python -m pipeline.stages.activate $(ONE))
	studies=$$(python -m pipeline.stages.check $(ONE)); \
	dvc repro $(if $(ONE),mirror@$(ONE) report@$(ONE)); \
	for study in $$studies; do python -m analysis.report $$study --answer; done

own: repository $(BIN)/.installed ## the same for a FOLDER of images: choose a study that fits into MINUTES, call it NAME
	study=$$(python -m pipeline.stages.own "$$FOLDER" "$$NAME" "$$MINUTES"); \
	$(MAKE) --no-print-directory study STUDY=$$study


test: $(BIN)/.installed ## all tests but the longer faults
	python -m pytest -n 2 --dist worksteal

test-faults: $(BIN)/.installed ## kills, full disks, two at once and other faults that take a while
	python -m pytest -n 2 --dist worksteal -m faults

lint: $(BIN)/.installed ## ruff and mypy
	ruff check
	ruff format --check
	mypy

repository: # what DVC needs, said before gigabytes are installed
	@command -v git >/dev/null || { echo 'error: Thaw needs git, which is not installed'; exit 1; } >&2
	@top=$$(git rev-parse --show-prefix) || { echo 'error: Thaw lies in no git repository; clone it, or run: git init'; exit 1; } >&2; \
	test -z "$$top" || echo "note: Thaw lies inside another git repository, whose commits say nothing of it: runs will record commit 'unknown'; git init in here mends that" >&2

.venv: $(BIN)/.installed ## install only

$(BIN)/.installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Thaw needs Python 3.11 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	touch $@

lock: ## renew requirements.lock: names, versions and hashes, no addresses (needs uv); torch and torchvision go in pairs
	uv pip compile --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header --all-extras \
	  --constraint <(printf 'torch==2.14.1\ntorchvision==0.29.1\n') pyproject.toml --output-file requirements.lock

ui: $(BIN)/.installed ## browse the runs in MLflow, on this machine only
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri $(MLFLOW_TRACKING_URI) --host 127.0.0.1 --port 5000 --workers 1

mirror: $(BIN)/.installed ## show every collected study, or STUDY, in MLflow, at MLFLOW_TRACKING_URI or in mlflow.db
	python -m pipeline.stages.mirror $(ONE)

# Its threads sleep while they wait for each other: 1.3 times slower on a quiet machine, 4 times faster on a busy one.
model: export OMP_WAIT_POLICY ?= passive
model: $(BIN)/.installed ## train the advised strategy of STUDY, or STRATEGY=, on all its images: models/STUDY/
	advice=$$(python -m analysis.report $(STUDY) --advice); \
	  python -m pipeline.stages.model $(STUDY) "$(STRATEGY)" "$$advice"

predict: $(BIN)/.installed ## class and probability of every image below IMAGES= by MODEL=models/STUDY, into OUT
	python -m pipeline.stages.predict "$(MODEL)" "$(IMAGES)" "$(OUT)"

verify: $(BIN)/.installed ## train CELLS published runs of STUDY again, picked by SEED= or at random: do they agree?
	python -m pipeline.stages.verify $(STUDY) "$(CELLS)" "$(SEED)"

report: $(BIN)/.installed ## render the report of STUDY again from its tables, without DVC or training
	python -m analysis.report $(STUDY)

pack: $(BIN)/.installed ## gather the finished runs of STUDY into one file a strategy, read like loose ones
	python -m pipeline.stages.pack $(STUDY)

prune: $(BIN)/.installed ## remove the runs of STUDY that no declared cell has any more, and say which
	python -m pipeline.stages.prune $(STUDY)

guide: $(BIN)/.installed ## write what all published studies say together, reports/guide.md, from their tables
	python -m analysis.guide

readme: $(BIN)/.installed ## write the answers of the published studies into README.md
	python -m analysis.readme

bench: $(BIN)/.installed ## time every part of a study; $(BENCH) is what `pytest-benchmark compare` reads
	mkdir -p $(dir $(BENCH))
	$(BENCHMARK) --benchmark-json=$(BENCH)
	python -m tests.benchmarks.report

bench-save: $(BIN)/.installed ## the same, kept in .benchmarks/ for `make bench-compare`
	$(BENCHMARK) --benchmark-autosave

bench-compare: $(BIN)/.installed ## the same, beside the run saved last; fails where a median grew by more than $(BENCH_LIMIT)
	$(BENCHMARK) --benchmark-compare --benchmark-compare-fail=median:$(BENCH_LIMIT)

bench-growth: $(BIN)/.installed ## how time and memory grow, what starting costs, where a step's time goes (15 minutes)
	python -m tests.benchmarks.growth
	python -m tests.benchmarks.report

bench-peers: $(BIN)/.installed .venv-peers/.installed ## the same work by a plain loop, fastai, Lightning and Thaw (an hour and a half)
	python -m tests.benchmarks.peers.compare
	python -m tests.benchmarks.report

.venv-peers/.installed: tests/benchmarks/peers/requirements.txt $(BIN)/.installed
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	python -c 'import site; print(site.getsitepackages()[0])' > $$(.venv-peers/bin/python -c 'import site; print(site.getsitepackages()[0])')/shared.pth
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint <(python -m pip freeze) -r tests/benchmarks/peers/requirements.txt
	touch $@

regress: $(BIN)/.installed ## STUDY at the commit BASE against the working tree: better, worse or equivalent, .regress/$(STUDY).md
	python -m pipeline.stages.regress $(BASE) $(STUDY)

clean: ## remove prepared data, the embedded study and caches; published studies stay
	rm -rf data/*/images.npy data/*/images_whole.npy data/*/listing.json data/*/index.csv data/*/card.json data/*/subsets.json data/*/.whole.json data/*/.activations results/quick reports/quick .mypy_cache .ruff_cache .pytest_cache .benchmarks mlflow.db* mlruns .regress
