# The pipeline as files: an artifact depends on the artifacts it is made from and on its stage's module.
PRESET ?= demo
RUN ?= $(PRESET)
DEVICE ?= auto
VOC_ROOT ?=
ROOT ?= $(VOC_ROOT)
PYTHON ?= python3
# Further options of `ccd all`, as ARGS="--recipe paper --set train.epochs=12"
ARGS ?=
PLAN ?= paper

VENV := .venv
BIN := $(VENV)/bin
CCD := $(BIN)/ccd
A := artifacts/$(RUN)
# A stage whose module is newer than its artifact is built even if the fingerprint says that it is up to date.
FORCE = $(if $(wildcard $@),$(if $(filter %.py,$?),--force))
STAGE = --run $(RUN) --device $(DEVICE) $(FORCE)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: all install prepare embed init-labels warmup boxes score-crops fuse train evaluate \
        test lint format bench-teacher bench-decode bench-train ablation export report review predict clean help

all: $(VENV)/installed ## set up, then run every stage: PRESET=demo, or PRESET=voc12 VOC_ROOT=DIR
	$(CCD) all --preset $(PRESET) --run $(RUN) --device $(DEVICE) $(if $(ROOT),--root $(ROOT)) $(ARGS)

install: $(VENV)/installed ## create .venv and install the project with its tests
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

prepare: $(A)/manifest.csv ## check the images, write the manifest
embed: $(A)/embeddings.h5 ## teacher embeddings, probabilities and bias
init-labels: $(A)/initial_labels.h5 ## initial pseudo-labels
warmup: $(A)/warmup.pt ## warm-up classifier
boxes: $(A)/boxes.h5 ## boxes around what it takes for each class
score-crops: $(A)/crop_scores.h5 ## what the teacher says of each crop
fuse: $(A)/final_labels.h5 ## final pseudo-labels
train: $(A)/classifier.pt ## final classifier
evaluate: $(A)/metrics.json ## figures against ground truth

$(A)/manifest.csv: pipeline/stages/prepare.py | $(VENV)/installed
	$(CCD) prepare --preset $(PRESET) --run $(RUN) $(if $(ROOT),--root $(ROOT)) $(FORCE)
$(A)/embeddings.h5: $(A)/manifest.csv pipeline/stages/embed.py
	$(CCD) embed $(STAGE)
$(A)/initial_labels.h5: $(A)/embeddings.h5 pipeline/stages/init_labels.py
	$(CCD) init-labels $(STAGE)
$(A)/warmup.pt: $(A)/manifest.csv $(A)/initial_labels.h5 pipeline/stages/warmup.py
	$(CCD) warmup $(STAGE)
$(A)/boxes.h5: $(A)/manifest.csv $(A)/warmup.pt pipeline/stages/boxes.py
	$(CCD) boxes $(STAGE)
$(A)/crop_scores.h5: $(A)/manifest.csv $(A)/boxes.h5 $(A)/embeddings.h5 pipeline/stages/score_crops.py
	$(CCD) score-crops $(STAGE)
$(A)/final_labels.h5: $(A)/embeddings.h5 $(A)/initial_labels.h5 $(A)/crop_scores.h5 $(wildcard $(A)/corrections.h5) pipeline/stages/fuse.py
	$(CCD) fuse $(STAGE)
$(A)/classifier.pt: $(A)/manifest.csv $(A)/warmup.pt $(A)/final_labels.h5 pipeline/stages/train.py
	$(CCD) train $(STAGE)
$(A)/metrics.json: $(A)/classifier.pt $(A)/embeddings.h5 pipeline/stages/evaluate.py
	$(CCD) evaluate $(STAGE)

test: $(VENV)/installed ## run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/installed ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-teacher: $(VENV)/installed ## views per second of the OpenAI teacher against batch-1 calls
	$(BIN)/python tests/benchmarks/teacher.py

bench-decode: $(VENV)/installed ## images per second of decoding against plain Pillow: IMAGES=DIR
	$(BIN)/python tests/benchmarks/decode.py $(IMAGES)

ablation: $(A)/manifest.csv ## the study of the paper's claims on RUN: PLAN=paper
	$(CCD) ablation $(PLAN) --run $(RUN) --device $(DEVICE)

bench-train: $(VENV)/installed ## images per second of a consistency epoch against a plain loop: IMAGES=DIR
	$(BIN)/python tests/benchmarks/train.py $(IMAGES)

export: $(A)/classifier.onnx ## the final classifier as ONNX
$(A)/classifier.onnx: $(A)/classifier.pt pipeline/tools/export.py
	$(CCD) export $(A)

report: $(A)/manifest.csv ## one HTML page that shows the run
	$(CCD) report --run $(RUN)

review: $(A)/final_labels.h5 ## the images most worth correcting, for Label Studio
	$(CCD) review-list --run $(RUN)

predict: $(A)/classifier.pt ## labels and scores of IMAGES=DIR
	$(CCD) predict $(A) $(IMAGES) --device $(DEVICE)

clean: ## remove the artifacts of RUN
	rm -rf $(A)

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
