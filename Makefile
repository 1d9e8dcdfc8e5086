# `make help` lists the targets; each makes the environment first.
PYTHON ?= python3
VENV ?= .venv
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PINS := $(wildcard constraints/$(VERSION).txt)
WORKERS ?= auto

.PHONY: help run test pytest test-web test-wheel docs pictures fuzz reliability lint emodb-plain package clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/base  ## Multi-CRNN on the built-in demo corpus
	$(VENV)/bin/python -m ser_jax.main --config=configs/multi_crnn.py

# What Python has compiled is kept, test files included, whatever the environment says.
PYTEST = PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest

# With -j2 the type checker, which has one thread, is at work beside the first tests.
test: lint pytest  ## linters, type checker and every test

pytest: $(VENV)/installed  ## every test
	$(PYTEST) -n $(WORKERS) --dist worksteal

# The page in headless Chromium ($CHROMIUM, or what is called chromium); skipped without one.
test-web: $(VENV)/installed  ## the pages in headless Chromium
	$(PYTEST) -n 0 -m web tests/web

docs: $(VENV)/docs  ## the documentation site, in build/docs; warnings are errors
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs

# Trains on the demo corpus; needs Chromium. PICTURES="report serve" makes these only.
PICTURES ?=
pictures: $(VENV)/installed  ## the pictures of the documentation, docs/pictures
	$(VENV)/bin/python docs/pictures.py $(PICTURES)

# Damaged recordings for some minutes; FUZZ="--seconds=600 --seed=7" sets the flags.
FUZZ ?=
fuzz: $(VENV)/installed  ## damaged recordings for some minutes
	$(VENV)/bin/python tests/reliability/fuzz_audio.py $(FUZZ)

# Kills in every phase, signals at random moments, flipped bits, damaged recordings.
reliability: $(VENV)/installed  ## what docs/reliability.md promises: many minutes
	$(VENV)/bin/python tests/helpers/promises.py --workers=$(WORKERS)

lint: $(VENV)/installed  ## ruff and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(PINS))

$(VENV)/base: pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# For the tests; hsf brings openSMILE, whose licence the demo does not depend on.
$(VENV)/installed: $(VENV)/base
	$(PIP) -e '.[data,hsf,media,serve,scale,ray,test]'
	touch $@

# From EMO-DB 1.x; EMODB=FOLDER is the folder that holds wav/.
ROBUST = $(VENV)/bin/ser-jax train --config=tuned/robust \
  --config.corpus.name=emodb --config.corpus.root=$(EMODB)
emodb-plain: $(VENV)/base  ## the packaged model and its card again
	$(ROBUST) --config.protocol.seeds=3 --workdir=runs/emodb-plain/speakers
	$(ROBUST) --config.protocol.name=emodb-final --workdir=runs/emodb-plain/final
	$(VENV)/bin/ser-jax stress --model=runs/emodb-plain/final
	$(VENV)/bin/ser-jax export --model=runs/emodb-plain/final --format=safetensors \
	  --licence=cc0-1.0 --about=ser_jax/pretrained/emodb-plain.about.md \
	  --output=ser_jax/pretrained/emodb-plain.safetensors

$(VENV)/docs: $(VENV)/base
	$(PIP) -e '.[docs]'
	touch $@

package: $(VENV)/installed  ## wheel and source archive in dist/, checked by twine
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check build twine
	rm -rf dist
	$(VENV)/bin/python -m build
	$(VENV)/bin/python -m twine check --strict dist/*

# In an empty environment outside the checkout.
test-wheel: package  ## the wheel, installed and used as by a new user
	PYTHON=$(PYTHON) .ci/wheel dist/*.whl $(or $(PINS),/dev/null)

clean:  ## remove the environment
	rm -rf $(VENV) build *.egg-info
