# Everything from a fresh clone: `make demo`, `make test`. `make help` lists the rest.
#
# By default a virtual environment is made in .venv and filled with the pinned requirements. With
# PYTHON=python3 on the command line that interpreter is used as it is: nothing is installed, no
# network is needed.

ifeq ($(origin PYTHON),command line)
requirements =
else
PYTHON = .venv/bin/python
requirements = .venv/.installed
for_docs = .venv/.installed-docs
endif

.DELETE_ON_ERROR:
.PRECIOUS: %/bin/python
.PHONY: help demo test test-fast test-frameworks test-oldest-torch test-ray docs bench convergence \
  lint gpu build dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24

demo: build ## train a small network with YellowFin, AdamW and SGD
	$(PYTHON) -m yfkernels.lab.cli demo

# Tests share the cores where pytest-xdist is installed. There are no benchmarks among them.
sharing = $(if $(shell $(PYTHON) -c 'import xdist' 2>&1),,-n auto --maxprocesses 8 -p no:benchmark)

test: build ## run all tests
	$(PYTHON) -m pytest $(sharing)

test-fast: build ## a minute of them: no Triton interpreter, no compilers, no other processes
	$(PYTHON) -m pytest $(sharing) --fast

test-frameworks: .venv-frameworks/.installed ## tests with the real frameworks, in an environment of their own
	.venv-frameworks/bin/python setup.py --quiet build_ext --inplace
	.venv-frameworks/bin/python -m pytest tests/frameworks tests/sharding

test-oldest-torch: .venv-oldest-torch/.installed ## tests with the oldest torch that is promised, in another
	.venv-oldest-torch/bin/python setup.py --quiet build_ext --inplace
	.venv-oldest-torch/bin/python -m pytest tests/curvature tests/optim tests/sharding

test-ray: .venv-ray/.installed ## tests of the Ray engine with Ray and real faults, in another
	.venv-ray/bin/python setup.py --quiet build_ext --inplace
	.venv-ray/bin/python -m pytest tests/asynchronous/engines/test_ray.py \
	  tests/lab/asynchrony/test_async_processes.py

docs: build $(for_docs) ## the documentation site, in docs/_build/html
	$(PYTHON) -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html
	@echo docs/_build/html/index.html

bench: build ## measure time and bandwidth of a step against torch's own optimizers
	$(PYTHON) -m yfkernels.lab.cli bench --check

convergence: build ## train real tasks beside rivals: hours, goes on where it was stopped
	$(PYTHON) -m bench.convergence run
	$(PYTHON) -m bench.convergence report

# of the same environment, or from the path
clang-format = $(filter-out ./,$(dir $(PYTHON)))clang-format

lint: $(requirements) ## ruff, mypy, clang-format
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	find csrc bench tests -regex ".*\.\(cpp\|h\|cu\|cuh\)" -exec $(clang-format) --dry-run --Werror {} +

# A build without CUDA code would leave the benchmarks and sanitizers nothing of ours to look at.
gpu: export YFK_BUILD ?= cuda
gpu: build ## on a CUDA machine, 6 minutes: GPU tests, benchmarks, sanitizers, report; or PART=tests|bench|sanitize|bench-all
	$(PYTHON) -m bench.speed.gpu $(PART) $(if $(OUT),--out $(OUT))

# Ninja knows what changed and is quick when nothing did, so this runs every time.
build: $(requirements) ## compile the extension in place
	$(PYTHON) setup.py --quiet build_ext --inplace

dist: $(requirements) ## the source distribution in dist/, and a wheel built from it as users build it
	rm -rf dist
	$(PYTHON) -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")'
	$(PYTHON) -m pip wheel --verbose --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist \
	  dist/yfkernels-*.tar.gz

.venv/.installed: requirements.txt pyproject.toml setup.py | .venv/bin/python
	.venv/bin/python -m pip install --requirement requirements.txt
	.venv/bin/python -m pip install --no-deps --no-build-isolation \
	  --config-settings editable_mode=compat --editable .
	touch $@

# Sphinx, beside what is there. It asks for Python 3.11.
.venv/.installed-docs: requirements-docs.txt .venv/.installed
	.venv/bin/python -m pip install --requirement requirements-docs.txt
	touch $@

# An environment of its own for each requirements-NAME.txt, with the package in it.
.venv-%/.installed: requirements-%.txt requirements.txt pyproject.toml setup.py | .venv-%/bin/python
	.venv-$*/bin/python -m pip install --requirement requirements-$*.txt
	$(if $(filter frameworks,$*),.venv-$*/bin/python -m pip install \
	  --no-deps fastai==2.8.12 timm==1.0.31)
	.venv-$*/bin/python -m pip install --no-deps --no-build-isolation \
	  --config-settings editable_mode=compat --editable .
	touch $@

pythons = (3, 10) <= v
.venv/bin/python: or_name = , or name one: make PYTHON=...
.venv-frameworks/bin/python: pythons = (3, 11) <= v
.venv-ray/bin/python: pythons = (3, 11) <= v
.venv-oldest-torch/bin/python: pythons = (3, 10) <= v < (3, 13)
%/bin/python:
	@for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	  if $$python -c 'import sys, venv, ensurepip; v = sys.version_info; sys.exit(not $(pythons))' \
	    2>/dev/null; \
	  then echo "$$python -m venv $*"; exec $$python -m venv $*; fi; \
	done; echo 'make: no Python with venv was found whose version v is $(pythons); install one$(or_name)' \
	  >&2; exit 1

clean: ## remove what was built; keeps the environments
	rm -rf build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f yfkernels/_C*.so yfkernels/_build.json
