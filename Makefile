# What is built, and from what, is known to `ccd` alone (pipeline/runs/graph.py): a target asks it for everything up to a stage.
PRESET ?= demo
RUN ?= $(PRESET)
DEVICE ?= auto
VOC_ROOT ?=
ROOT ?= $(VOC_ROOT)
PYTHON ?= python3
# Where torch comes from, if not from the package index: https://download.pytorch.org/whl/cpu needs no CUDA libraries
TORCH_INDEX ?=
# Further options of `ccd all`, as ARGS="--recipe ccd --set train.epochs=12"
ARGS ?=
PLAN ?= paper
PHOTOS ?= 1000 10000

VENV := .venv
BIN := $(VENV)/bin
CCD := $(BIN)/ccd
STAGES := prepare embed init-labels warmup boxes score-crops fuse train evaluate

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: all install $(STAGES) plan test test-slow check-gpu lint format bench-teacher bench-decode bench-train bench-feed bench-engines bench-start bench-scale bench-intervals bench-kill bench-serve ablation export \
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

# prepare embed init-labels warmup boxes score-crops fuse train evaluate: everything up to that stage, where it is not current
$(STAGES): $(VENV)/installed
	$(CCD) all --to $@ --preset $(PRESET) --run $(RUN) --device $(DEVICE) $(if $(ROOT),--root $(ROOT)) $(ARGS)

plan: $(VENV)/installed ## what `make all RUN=...` would do, and about how long it would take
	$(CCD) plan --run $(RUN)

test: $(VENV)/installed-test ## run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-test ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

check-gpu: $(VENV)/installed-test ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/installed-lint ## check style, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(VENV)/installed-lint ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-teacher: $(VENV)/installed-test ## views per second of the OpenAI teacher against batch-1 calls
	$(BIN)/python tests/benchmarks/teacher.py

bench-decode: $(VENV)/installed-test ## images per second of decoding against plain Pillow: IMAGES=DIR
	$(BIN)/python tests/benchmarks/decode.py $(IMAGES)

bench-train: $(VENV)/installed-test ## images per second of a consistency epoch against a plain loop: IMAGES=DIR
	$(BIN)/python tests/benchmarks/train.py $(IMAGES)

bench-feed: $(VENV)/installed-test ## share of the ideal rate at which photos and crops reach the device
	$(BIN)/python tests/benchmarks/feed.py

bench-engines: $(VENV)/installed-test ## milliseconds a photo of frozen backbones, by engine
	$(BIN)/python tests/benchmarks/engines.py

bench-start: $(VENV)/installed-test ## seconds and memory of commands that need no network: RUN
	$(BIN)/python tests/benchmarks/start.py artifacts/$(RUN)

bench-scale: $(VENV)/installed-test ## CPU milliseconds a photo and peak memory of each stage: PHOTOS="1000 10000", really run
	$(BIN)/python tests/benchmarks/scale.py --photos $(PHOTOS)

bench-intervals: $(VENV)/installed-test ## share of 95 % intervals that hold the true mAP and gain, in simulations
	$(BIN)/python tests/benchmarks/intervals.py

bench-kill: $(VENV)/installed-test ## a tiny run killed at 100 random moments against an unbroken one
	$(BIN)/python tests/benchmarks/kill.py

bench-serve: $(VENV)/installed-test ## photos per second of `ccd serve` against `ccd predict`: RUN, IMAGES=DIR
	$(BIN)/python tests/benchmarks/serve.py artifacts/$(RUN)/classifier.pt $(IMAGES)

ablation: $(VENV)/installed-plot ## the study of the paper's claims on RUN: PLAN=paper
	$(CCD) ablation $(PLAN) --run $(RUN) --device $(DEVICE)

export: $(VENV)/installed-onnx ## the final classifier of RUN as ONNX
	$(CCD) export $(RUN) --force

report: $(VENV)/installed ## one HTML page that shows RUN
	$(CCD) report --run $(RUN)

review: $(VENV)/installed ## the images most worth correcting, for Label Studio
	$(CCD) review-list --run $(RUN) --force

predict: $(VENV)/installed ## labels and scores of IMAGES=DIR
	$(CCD) predict $(RUN) $(IMAGES) --device $(DEVICE)

clean: ## remove the artifacts of RUN
	@case "$(RUN)" in ""|*/*|.*) echo "RUN=$(RUN) is no name of a run"; exit 1;; esac
	rm -rf "artifacts/$(RUN)"

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
