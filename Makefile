# pipeline/runs/graph.py defines which files are built from which: a target calls `ccd` for everything up to its stage.
PRESET ?= demo
RUN ?= $(PRESET)
DEVICE ?= auto
VOC_ROOT ?=
ROOT ?= $(VOC_ROOT)
PYTHON ?= python3
# Index to install torch from instead of the package index: https://download.pytorch.org/whl/cpu needs no CUDA libraries
TORCH_INDEX ?=
# More options of `ccd all`, such as ARGS="--recipe ccd --epochs 12"
ARGS ?=
PLAN ?= paper
PHOTOS ?= 1000 10000
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
CCD := $(BIN)/ccd
STAGES := prepare embed init-labels warmup boxes score-crops fuse train evaluate

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: all install $(STAGES) status test test-slow check-gpu package-check lint format bench-teacher bench-decode bench-train bench-feed bench-engines bench-start bench-scale bench-intervals bench-serve bench-bad-requests bench-damage ablation export notebook docs \
        report review predict clean help

all: $(VENV)/installed ## install what a run needs, then run every stage: PRESET=demo, or PRESET=voc12 VOC_ROOT=DIR
	$(CCD) all --preset $(PRESET) --run $(RUN) --device $(DEVICE) $(if $(ROOT),--root $(ROOT)) $(ARGS)

install: $(VENV)/installed ## create .venv and install what a run needs
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet torch torchvision --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# One stamp per extra of pyproject.toml, such as .venv/installed-test
$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# prepare embed init-labels warmup boxes score-crops fuse train evaluate: everything up to that stage that is out of date
$(STAGES): $(VENV)/installed
	$(CCD) all --to $@ --preset $(PRESET) --run $(RUN) --device $(DEVICE) $(if $(ROOT),--root $(ROOT)) $(ARGS)

status: $(VENV)/installed ## print the stages that `make all` would run, and their estimated time: RUN
	$(CCD) status --run $(RUN)

test: $(VENV)/installed-test ## run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-test ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

check-gpu: $(VENV)/installed-test ## on a GPU: run its tests, check the teacher, and measure the batch sizes and precisions that fit
	$(BIN)/python -m pytest -m gpu
	$(CCD) check --device $(DEVICE)
	$(BIN)/python tests/benchmarks/fits.py

package-check: $(VENV)/installed-test ## build sdist and wheel in dist/, install each from the package index into a new environment, run the demo there
	rm -rf dist
	$(BIN)/python -m build
	set -e; for archive in dist/*.whl dist/*.tar.gz; do \
	  folder=$$(mktemp -d); \
	  $(PYTHON) -m venv $$folder/venv; \
	  $(if $(TORCH_INDEX),$$folder/venv/bin/pip install --quiet torch torchvision --index-url $(TORCH_INDEX);) \
	  $$folder/venv/bin/pip install --quiet $$archive; \
	  (cd $$folder && venv/bin/ccd all --preset demo --device $(DEVICE) --set prepare.train_scenes=24 --set prepare.test_scenes=12 --set train.epochs=1); \
	  rm -r $$folder; \
	done

lint: $(VENV)/installed-lint ## check style and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(VENV)/installed-lint ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-teacher: $(VENV)/installed-test ## measure views per second of the OpenAI teacher against batches of one
	$(BIN)/python tests/benchmarks/teacher.py

bench-decode: $(VENV)/installed-test ## measure images per second of decoding against plain Pillow: IMAGES=DIR
	$(BIN)/python tests/benchmarks/decode.py $(IMAGES)

bench-train: $(VENV)/installed-test ## measure images per second of a consistency epoch against a plain loop: IMAGES=DIR
	$(BIN)/python tests/benchmarks/train.py $(IMAGES)

bench-feed: $(VENV)/installed-test ## measure the rate of photos and crops to the device as a share of the ideal rate
	$(BIN)/python tests/benchmarks/feed.py

bench-engines: $(VENV)/installed-test ## measure milliseconds per photo of frozen backbones, by engine
	$(BIN)/python tests/benchmarks/engines.py

bench-start: $(VENV)/installed-test ## measure seconds and memory of commands that need no network: RUN
	$(BIN)/python tests/benchmarks/start.py artifacts/$(RUN)

bench-scale: $(VENV)/installed-test ## measure CPU milliseconds per photo and peak memory of each stage: PHOTOS="1000 10000"
	$(BIN)/python tests/benchmarks/scale.py --photos $(PHOTOS)

bench-intervals: $(VENV)/installed-test ## measure the share of 95 % intervals that contain the true mAP and gain, in simulations
	$(BIN)/python tests/benchmarks/intervals.py

bench-serve: $(VENV)/installed-test ## measure photos per second of `ccd serve` against `ccd predict`: RUN, IMAGES=DIR
	$(BIN)/python tests/benchmarks/serve.py artifacts/$(RUN)/classifier.pt $(IMAGES)

bench-bad-requests: $(VENV)/installed-test ## measure the memory of `ccd serve` under 2,000 bad requests, and of large photos: RUN
	$(BIN)/python tests/benchmarks/bad_requests.py artifacts/$(RUN)/classifier.pt

bench-damage: $(VENV)/installed-test ## read damaged files of every kind for about an hour: SEED
	CCD_FUZZ_SEED=$(SEED) CCD_FUZZ_ROUNDS=90 CCD_FLIP_STEP=1 CCD_FUZZ_PHOTOS=1500 CCD_FUZZ_SECONDS=60 $(BIN)/python -m pytest -q \
	  tests/test_fuzz.py tests/test_fuzz_sources.py tests/test_flips.py tests/test_damaged_partial_results.py \
	  tests/test_damaged_photos.py tests/test_teachers_precomputed.py tests/test_serve.py

ablation: $(VENV)/installed-plot ## compare the settings of a plan on RUN: PLAN=paper or methods
	$(CCD) ablation $(RUN) --plan $(PLAN) --device $(DEVICE)

notebook: $(VENV)/installed-notebook ## run docs/notebook.ipynb and store its outputs in it
	$(BIN)/python docs/run_notebook.py

docs: $(VENV)/installed-docs ## build the pages of README.md and docs/ as a site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

export: $(VENV)/installed-onnx ## export the final classifier of RUN as ONNX
	$(CCD) export $(RUN) --force

report: $(VENV)/installed ## write the report of RUN, one HTML page
	$(CCD) report $(RUN)

review: $(VENV)/installed ## write the most uncertain images of RUN as tasks of Label Studio
	$(CCD) export-review $(RUN) --force

predict: $(VENV)/installed ## predict labels and scores with the classifier of RUN: IMAGES=DIR
	$(CCD) predict $(RUN) $(IMAGES) --device $(DEVICE)

clean: ## remove the artifacts of RUN
	@case "$(RUN)" in ""|*/*|.*) echo "RUN=$(RUN) is not the name of a run"; exit 1;; esac
	rm -rf "artifacts/$(RUN)"

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
