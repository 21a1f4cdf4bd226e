# One command each on a fresh machine: make test, make bench, make demo.
#
#   TORCH      the torch requirement to install             (default torch==2.13.0)
#   PIP_ARGS   extra pip arguments, for PyTorch's own index of CPU or CUDA wheels
#   PYTHON     the interpreter that makes .venv             (default python3)

TORCH ?= torch==2.13.0
PIP_ARGS ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_ARGS)
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: test sanitize bench demo check info lint format aot cuda gpu-check clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Rebuilt where the torch requirement changes.
$(VENV)/.torch: $(BIN)/python Makefile
	@test "$$(cat $@ 2>/dev/null)" = "$(TORCH)" || { $(PIP) "$(TORCH)" "setuptools>=77" "pybind11>=2.13" wheel && echo "$(TORCH)" > $@; }
	@touch $@

$(VENV)/.built: $(VENV)/.torch $(SOURCES)
	$(PIP) --no-build-isolation -e ".[dev,bench]" "$(TORCH)"  # named again: timm's torchvision must fit it
	@touch $@

test: $(VENV)/.built
	$(BIN)/python -m pytest $(ARGS)

# The kernel tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer, beside the plain one: every family's
# cases on every instruction set of this machine. The checks left out either double the build or are AddressSanitizer's too.
SANITIZER_FLAGS := -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-fno-sanitize=null,object-size,vptr,alignment
SANITIZED := activation add attention batch_norm captured_changes captured_limits captured_training conv cross_entropy diffusion \
	dropout embedding glu group_norm layer_norm loss matmul memory pool recurrent resampling softmax tiles winograd

SANITIZER_REPORT := $(CURDIR)/build/sanitize/report

sanitize: $(VENV)/.built
	DLPERF_CXXFLAGS="$(SANITIZER_FLAGS)" $(BIN)/python setup.py -q build --build-base build/sanitize/base --build-lib build/sanitize/lib
	rm -f $(SANITIZER_REPORT).*
	DLPERF_TESTED=build/sanitize/lib PYTHONPATH=build/sanitize/lib \
	UBSAN_OPTIONS=print_stacktrace=1:log_path=$(SANITIZER_REPORT) \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path=$(SANITIZER_REPORT) \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	$(BIN)/pytest --import-mode=append -p no:cacheprovider $(SANITIZED:%=tests/test_%.py) $(ARGS) \
	|| { cat $(SANITIZER_REPORT).* 2>/dev/null; exit 1; }

bench: $(VENV)/.built
	$(BIN)/dlperf bench models --quick --out bench-out $(ARGS)

demo: $(VENV)/.built
	$(BIN)/dlperf demo --out demo-out $(ARGS)

check: $(VENV)/.built
	$(BIN)/dlperf check $(ARGS)

info: $(VENV)/.built
	$(BIN)/dlperf info

lint: $(VENV)/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

format: $(VENV)/.built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# Every Triton kernel and configuration that ships, compiled for sm_80, sm_90 and sm_100; no GPU needed.
aot: $(VENV)/.built
	$(BIN)/python -m dlperf.kernels.aot --out docs/aot.md $(ARGS)

# Every CUDA C++ kernel, compiled for sm_80, sm_90a and sm_100: needs nvcc 12.8 or newer, no GPU.
cuda: $(VENV)/.built
	$(BIN)/python -m dlperf.benchmarks.cuda_build --out docs/cuda.md $(ARGS)

# On a machine with a GPU: no virtual environment, no network, the interpreter's own torch.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py $(ARGS)

clean:
	rm -rf $(VENV) build dist bench-out demo-out gpu-check-out *.egg-info dlperf/*.so
