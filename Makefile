# make train | test | bench: set-up (once), then the thing itself. make setup: the set-up alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
CSRC := $(shell find csrc -type f)
# Test files are spread over this many processes of one thread each: threads of one that wait for each other while the
# other computes take up to fifty times as long. Timing-sensitive work never runs in them.
JOBS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: train test bench performance setup lint format sanitize sanitized clang fuzz faults processes docs wheel \
  repair-wheel wheel-check gpu-compile clean

train: setup
	$(BIN)/python -m scatsimclr.train --fused

test: setup lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests
	$(BIN)/python -m pytest -q benchmarks

# All figures on this machine, under 30 minutes on two cores; QUICK=1: fewer shapes and rounds, under 3.
QUICK ?=
LOCAL := benchmarks/results/local.json
bench: setup $(VENV)/peers
	$(BIN)/python -m pytest -q benchmarks --benchmark-enable --benchmark-only --benchmark-quiet \
	  $(if $(QUICK),--quick) --benchmark-json=$(LOCAL)
	$(BIN)/python -m benchmarks.page --output build/performance.md $(LOCAL)

# docs/performance.md, its plots and the README's tables, from the results files of the repository.
performance: setup
	$(BIN)/python -m benchmarks.page

# AddressSanitizer and UndefinedBehaviourSanitizer over every test of the C++ kernels, in a build of its own.
# Their libraries must come first in the process; libstdc++ with them, so that exceptions are seen. Python's own
# allocations live until it ends: leaks are not looked for. The sanitizers' own memory would fail the memory test.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
IN_SANITIZED = LD_PRELOAD="$$(for lib in asan ubsan stdc++; do $(CXX) -print-file-name=lib$$lib.so; done | xargs)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$(SANITIZED)/lib:. $(ONE_THREAD)
sanitize: sanitized
	$(IN_SANITIZED) $(BIN)/pytest -n $(JOBS) -o pythonpath="$(SANITIZED)/lib ." -k "not little_memory" \
	  tests/ops tests/test_scattering.py tests/test_changed_filters.py tests/test_loss.py

# The tests of the C++ kernels, each instruction set forced in turn, in a build by clang.
CLANG := build/clang
clang: setup
	CC=clang CXX=clang++ $(BIN)/python setup.py --quiet build --build-base $(CLANG) --build-lib $(CLANG)/lib
	PYTHONPATH=$(CLANG)/lib:. $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) -o pythonpath="$(CLANG)/lib ." tests/ops

# What clangd needs to open the files of csrc/.
compile_flags.txt: $(VENV)/packages
	$(BIN)/python -c 'from torch.utils.cpp_extension import include_paths; \
	  print("-xc++", "-std=c++20", "-Icsrc", *("-I" + path for path in include_paths()), sep="\n")' > $@

# Malformed input of every kind, seeded: operators' arguments under the sanitizers, image files, settings, the files of a
# run, and what every reader is led to by its own code. Under 20 minutes on two cores.
FUZZ_CALLS ?= 20000
fuzz: sanitized $(VENV)/fuzz
	$(IN_SANITIZED) $(BIN)/python -m tests.fuzz.operators --count $(FUZZ_CALLS)
	$(BIN)/python -m tests.fuzz.images
	$(BIN)/python -m tests.fuzz.settings
	$(BIN)/python -m tests.fuzz.checkpoints
	$(BIN)/python -m tests.fuzz.guided

# Kills, signals, full disks and rivals against the training program, each resumed to the same bits: 40 minutes on two
# cores. Mounting a small disk needs root; without it those cases say so.
faults: setup
	$(ONE_THREAD) $(BIN)/python -m tests.faults

# The tests of the GPU kernels with the Triton of PyTorch 2.11, from a folder of its own (200 MB), and every launch that
# they make for every compute capability that it serves.
TRITON ?= 3.6.0
# Triton 3.6 does not interpret with a newer one.
TRITON_NUMPY ?= 2.2.6
OTHER_TRITON := build/triton-$(TRITON)
gpu-compile: setup $(OTHER_TRITON)
	PYTHONPATH=$(abspath $(OTHER_TRITON)) $(ONE_THREAD) $(BIN)/python -m pytest -q --every-launch tests/kernels

$(OTHER_TRITON):
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ triton==$(TRITON) \
	  numpy==$(TRITON_NUMPY) || { rm -rf $@; exit 1; }

# The documentation as a site, in build/site; a broken link or a docstring that cannot be read is an error.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir build/site

# dist/: a source distribution that builds without a network, and the wheel built from it. One wheel for every Python
# from 3.10 on, every torch from 2.11 on and, as torch's own wheels, every glibc from 2.28 on. cibuildwheel, which builds
# it in manylinux's own container, calls repair-wheel (pyproject.toml).
wheel: $(VENV)/release
	rm -rf dist build/wheel
	SCATSIMCLR_CUDA=0 $(BIN)/python -m build --no-isolation --outdir build/wheel
	$(MAKE) repair-wheel AUDITWHEEL="env PATH=$(CURDIR)/$(BIN):$$PATH auditwheel" WHEEL=build/wheel/*.whl OUT=dist
	mv build/wheel/*.tar.gz dist

# The wheel may claim manylinux_2_28 only if it needs nothing newer; torch's libraries are found by torch.
AUDITWHEEL ?= auditwheel
repair-wheel:
	$(AUDITWHEEL) repair --plat manylinux_2_28_x86_64 --only-plat --exclude libc10.so --exclude libtorch_cpu.so -w $(OUT) $(WHEEL)

# The tests of the operators with the wheel in dist/ as it is, under each of these versions of torch. An environment
# that is there already is used as it is, and one more can be named: WHEEL_ENVIRONMENTS=FOLDER.
TORCH ?= 2.11.0 2.13.0 2.14.1
CHECK := build/wheel-check
WHEEL_ENVIRONMENTS ?= $(TORCH:%=$(CHECK)/torch-%)
wheel-check: $(WHEEL_ENVIRONMENTS)
	rm -rf $(CHECK)/installed
	$(PYTHON) -m zipfile -e dist/*.whl $(CHECK)/installed
	cp -r tests $(CHECK)/installed
	cd $(CHECK)/installed && for environment in $(abspath $(WHEEL_ENVIRONMENTS)); do \
	  $$environment/bin/python -c 'import torch, scatsimclr; print("torch", torch.__version__, scatsimclr.__file__); \
	    assert scatsimclr.backends()["ntxent"]["cpu"] == "cpu", "the compiled extension is not in use"' && \
	  $(ONE_THREAD) $$environment/bin/python -m pytest -q -c /dev/null --rootdir . --import-mode=importlib \
	    -p no:cacheprovider tests/ops || exit 1; \
	done

$(CHECK)/torch-%:
	$(PYTHON) -m venv $@
	grep -vE '^(torch|triton|setuptools)==' constraints.txt > $@/constraints.txt
	$@/bin/pip install --quiet -c $@/constraints.txt torch==$* numpy scipy safetensors pytest hypothesis kymatio==0.3.0 \
	  || { rm -rf $@; exit 1; }

# Runs of one, two and four processes, which must be the same run; one of them killed, stopped or failing; four machines,
# one of them lost; what the loss holds and what a step sends: an hour on two cores. The machines need root.
processes: setup
	$(ONE_THREAD) $(BIN)/python -m tests.distributed

sanitized: setup
	CFLAGS="$(SANITIZERS)" LDFLAGS="$(SANITIZERS)" \
	  $(BIN)/python setup.py --quiet build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/installed

# The packages (minutes the first time).
$(VENV)/packages: constraints.txt pyproject.toml
	@echo "setup: virtual environment in $(VENV), pinned packages from constraints.txt"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "setup: Python 3.10 or newer is needed; make PYTHON=python3.12 chooses one"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "setup: making the virtual environment failed; Debian, Ubuntu: apt-get install python3-venv"; exit 1; }
	@# torch first: building the extension needs it, without pip's isolated copy of it.
	@$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt) setuptools wheel ninja numpy
	@touch $@

# The compiled extension and the editable install (a minute; only what changed is compiled again).
$(VENV)/installed: $(VENV)/packages setup.py $(CSRC)
	@echo "setup: compiling csrc/ and installing scatsimclr"
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@
	@echo "setup: done; $(BIN)/python -m scatsimclr.info tells what is used"

# What the benchmarks compare with; one that cannot be installed is listed as missing there.
$(VENV)/peers: $(VENV)/installed
	@$(PIP) --no-build-isolation -e '.[peers]' && touch $@ || echo "bench: not all peers could be installed"

# What the pages and the packages are made with, and what leads the fuzzer.
$(VENV)/docs $(VENV)/release $(VENV)/fuzz: $(VENV)/%: $(VENV)/installed
	@$(PIP) --no-build-isolation -e '.[$*]' && touch $@

clean:
	rm -rf build dist *.egg-info scatsimclr/_C*.so .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -f $(VENV)/installed $(VENV)/peers $(VENV)/docs $(VENV)/release $(VENV)/fuzz
