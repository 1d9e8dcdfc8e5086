# make run: the demo; make test: every test; make test-web: the web page in a browser; make fuzz: damaged recordings; make
# reliability: what docs/reliability.md promises. Each makes the environment first.
PYTHON ?= python3
VENV ?= .venv
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PINS := $(wildcard constraints/$(VERSION).txt)
WORKERS ?= auto

.PHONY: run test test-web fuzz reliability lint clean

run: $(VENV)/installed
	$(VENV)/bin/python -m ser_jax.main --config=configs/multi_crnn.py

test: $(VENV)/installed lint
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

# The page in headless Chromium ($CHROMIUM, or what is called chromium); skipped without one.
test-web: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 0 -m web tests/web

# Damaged recordings for some minutes; FUZZ="--seconds=600 --seed=7" sets the flags.
FUZZ ?=
fuzz: $(VENV)/installed
	$(VENV)/bin/python tests/fuzz_audio.py $(FUZZ)

# Kill storms of every system, signals at random moments, flipped bits, damaged recordings: half an hour and more.
reliability: $(VENV)/installed
	$(VENV)/bin/python tests/reliability.py --workers=$(WORKERS)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

$(VENV)/installed: pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(PINS)) -e '.[data,hsf,serve,scale,ray,test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
