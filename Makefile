# make book   executes every chapter and builds the HTML        make test   what CI runs
# TORCH=cpu   installs PyTorch without CUDA, where the machine has no GPU: make book TORCH=cpu

PYTHON ?= python3.11
VENV := .venv
# What was installed stays: after `make book TORCH=cpu`, `make test` does not fetch CUDA.
TORCH ?= $(if $(wildcard $(VENV)/installed-cpu),cpu,default)
BIN := $(VENV)/bin
# Two runs of make in one checkout take turns at installing and at testing. flock belongs to every
# Debian; where it is missing (macOS), do not start two at once.
LOCKED = $(if $(shell command -v flock),flock $(1))
STAMP := $(VENV)/installed-$(TORCH)
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.PHONY: help book test notebooks html lock clean

help:
	@echo "make book       environment, every chapter executed, the HTML built"
	@echo "make test       lint, types, unit tests, chapters from an empty store, nbval, the book"
	@echo "make notebooks  execute the chapters only"
	@echo "make html       build the HTML only, from the notebooks as they are"
	@echo "make lock       resolve requirements.lock anew from pyproject.toml"
	@echo "make clean      remove the built book; the store of finished parts stays"

# The stamp is newer than the files that decide what is installed, so a second run installs nothing.
$(STAMP): requirements.lock requirements-cuda.lock pyproject.toml
	@$(call LOCKED,.venv.lock) sh tools/install.sh $(PYTHON) $(VENV) $(TORCH)

notebooks: $(STAMP)
	$(BIN)/python -m nuisance.render

html: $(STAMP)
	$(BIN)/python -m nuisance.publish

book: notebooks
	$(BIN)/python -m nuisance.publish

test: $(STAMP)
	@mkdir -p _build
	VENV=$(VENV) $(call LOCKED,_build/test.lock) sh tools/test.sh

lock:
	sh tools/lock.sh $(PYTHON)

clean:
	rm -rf _build
