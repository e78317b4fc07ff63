# `make up` and `make test` are all a newcomer needs; both set up .venv and build first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard fastpath/quorumd_fastpath/*.pyx fastpath/quorumd_fastpath/*.pxd fastpath/quorumd_fastpath/*.h) setup.py

.PHONY: up test lint build asan bench figures soak mutants clean

up: build
	$(BIN)/quorumd up

test: build
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: build
	$(BIN)/ruff check .
	$(BIN)/mypy --strict daemon/quorumd fastpath/quorumd_fastpath
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint fastpath/quorumd_fastpath
	$(BIN)/python -m pytest tests/test_style.py tests/test_imports.py

# Micro-benchmarks (pytest-benchmark).
bench: build
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only

# Longer proofs. Of each engine: power loss on real files with both broken builds, then real processes under every fault
# and the simulator, each with fresh seeds for SOAK_MINUTES (so it lasts four times that, and more). And the random
# worlds over many seeds. A history that chaos leaves undecided (exit code 3) does not end it.
SOAK_MINUTES ?= 30
soak: build
	for engine in raft paxos; do \
		$(BIN)/python bench/prove_powerloss.py --rounds 20 --engine $$engine && \
		{ $(BIN)/quorumd chaos --engine $$engine --nodes 5 --seconds $$((60 * $(SOAK_MINUTES))) || [ $$? -eq 3 ]; } && \
		$(BIN)/quorumd sim --engine $$engine --minutes $(SOAK_MINUTES) --jobs 2 || exit 1; \
	done
	QUORUMD_SOAK=1 $(BIN)/python -m pytest tests/powerloss/test_chaos.py
	QUORUMD_SEEDS=500 $(BIN)/python -m pytest tests/node/test_random_world.py tests/consensus

# Known bugs of protocol and storage, one at a time: fails if a check that should catch one does not (40 minutes
# to an hour and more).
mutants: build
	$(BIN)/python tests/mutants/run.py

# The figures in bench/results/: failover, crashes, throughput, ... (bench/show.py; about twenty minutes).
# FLOOR=path of the yardstick's binary, to measure throughput beside it.
figures: build
	$(BIN)/python bench/show.py $(if $(FLOOR),--floor $(FLOOR))

# The fastpath tests under the address and undefined-behaviour sanitizers, in a build tree of their own.
asan: $(VENV)/.installed
	./tests/asan.sh

build: $(VENV)/.built

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "quorumd needs Python 3.11 or later as '$(PYTHON)' (Debian: apt-get install python3 python3-venv)."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "quorumd needs Python 3.11 or later; '$(PYTHON)' is older. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check "setuptools>=77" "cython>=3.1,<4"
	QUORUMD_PURE=1 $(BIN)/pip install -q --disable-pip-version-check -e ".[dev]" --no-build-isolation
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

clean:
	rm -rf build $(VENV) daemon/*.egg-info *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f fastpath/quorumd_fastpath/*.so
