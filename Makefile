# make demo: the whole road on images drawn on the spot. make test: everything CI runs.
PYTHON ?= python3
BIN := .venv/bin
CORE := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h csrc/*/*/*.cpp)
CXX_FILES := $(CORE) $(wildcard cuda/* benchmarks/*.cpp tests/csrc/*.cpp tests/csrc/*.h tests/csrc/*/*.h tests/crash/*.c)
INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(CORE)

.PHONY: demo test lint format sanitize neon cuda cuda-report gpu gpu-test gpu-bench bench bench-scale study soak soak-archive crash fuzz clean

demo: .venv/train.stamp
	$(BIN)/athsearch demo

test: .venv/dev.stamp lint
	$(BIN)/python -m pytest

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# The core alone under AddressSanitizer, UBSan and ThreadSanitizer; `make test` does it too.
sanitize: .venv/dev.stamp
	$(BIN)/python -m pytest tests/test_csrc.py

# The Arm kernel, by a cross compiler and an emulator (Debian: g++-aarch64-linux-gnu, qemu-user).
neon:
	mkdir -p build
	aarch64-linux-gnu-g++ -std=c++17 -O2 -pthread -static tests/csrc/test_scanner.cpp csrc/scanner.cpp \
	    csrc/distinct.cpp csrc/group.cpp csrc/multi_index.cpp csrc/rerank.cpp csrc/pool.cpp \
	    csrc/kernels/scalar.cpp csrc/kernels/neon.cpp -o build/test_scanner_neon
	qemu-aarch64 build/test_scanner_neon

# What runs on GPUs, without one: built with nvcc in an environment of its own, imported, and its kernels emulated.
cuda:
	test -x build/cuda/bin/python || $(PYTHON) -m venv build/cuda
	build/cuda/bin/python -m pip install --quiet --disable-pip-version-check pytest
	ATH_CUDA=ON build/cuda/bin/python -m pip install --quiet --disable-pip-version-check .
	build/cuda/bin/python -m pytest --noconftest tests/test_gpu_index.py tests/test_gpu_encoder.py tests/test_csrc.py -k gpu
	build/cuda/bin/athsearch device

# Registers, spills and instructions of the CUDA kernels, into docs/cuda.md; needs nvcc, cuobjdump and nvdisasm.
cuda-report:
	$(PYTHON) benchmarks/cuda_report.py

# On a machine with a GPU, where $(PYTHON) has torch, pytest, pybind11 and scikit-build-core; needs no network. The figures
# come after the tests, whatever these say, and go to RESULTS one by one; LOGS gets what the tests print. What hangs is
# ended after so many seconds.
RESULTS ?= benchmarks/results
LOGS ?= build
TEST_SECONDS ?= 200
BENCH_SECONDS ?= 200
GPU_TEST := $(PYTHON) -u -m pytest -W default --noconftest -v -m gpu
# A process for each kernel: after an error of one a process has no GPU any more.
GPU_TESTS := gpu/popcount gpu/b1 gpu/wgmma gpu/index gpu/encoder gpu/ops
gpu:
	$(MAKE) gpu-test; status=$$?; $(MAKE) gpu-bench && exit $$status

# Side by side, for each leaves the GPU idle most of the time.
gpu-test: build/gpu.stamp
	$(PYTHON) -c 'import sys; from athsearch.gpus import find_gpus; sys.exit(find_gpus().why_not(0))'
	$(MAKE) --jobs --keep-going --output-sync $(GPU_TESTS) gpu/memcheck gpu/racecheck gpu/synccheck

gpu-test gpu-bench gpu/%: export PYTHONPATH := $(CURDIR)/build/gpu
gpu/%: LOG = $(LOGS)/gpu-$(@F).log
gpu/popcount gpu/b1 gpu/wgmma: WHICH = tests/test_gpu_index.py -k $(@F)
gpu/index: WHICH := tests/test_gpu_index.py -k 'not (popcount or b1 or wgmma)'
gpu/encoder: WHICH := tests/test_gpu_encoder.py
gpu/ops: WHICH := tests/test_ops.py
$(GPU_TESTS):
	timeout -k 5 $(TEST_SECONDS) $(GPU_TEST) $(WHICH) > $(LOG) 2>&1; \
	    status=$$?; tail -n 15 $(LOG); exit $$status

# Our kernels alone, and what they do, not torch's calls.
gpu/memcheck gpu/racecheck gpu/synccheck: SANITIZER = timeout -k 5 $(TEST_SECONDS) compute-sanitizer --tool $(@F) \
    --error-exitcode 1 --kernel-name kns=athsearch $(OPTIONS)
gpu/memcheck: OPTIONS := --report-api-errors no --padding 512
gpu/memcheck: FEW := 65-511 or 520-511 or 64-36-ath or (small and float16)
gpu/racecheck gpu/synccheck: FEW := 65-511 or 64-36-ath or (small and float16)
gpu/memcheck gpu/racecheck gpu/synccheck:
	if $(SANITIZER) $(PYTHON) -c 'from athsearch import _cuda; _cuda.Database(1, 1, 0)' > $(LOG) 2>&1; then \
	    $(SANITIZER) $(GPU_TEST) tests/test_gpu_*.py tests/test_ops.py -k '$(FEW)' > $(LOG) 2>&1; \
	    status=$$?; tail -n 15 $(LOG); exit $$status; \
	else echo 'compute-sanitizer does not work here:'; tail -n 3 $(LOG); fi

# The most wanted first.
gpu-bench: build/gpu.stamp
	status=0; for name in scan ops encode; do \
	    timeout -k 5 $(BENCH_SECONDS) $(PYTHON) benchmarks/bench_gpu_$$name.py --out $(RESULTS)/gpu-$$name.json || status=1; \
	done; exit $$status

# For the GPU that is there alone.
build/gpu.stamp: export ATH_CUDA := ON
build/gpu.stamp: export ATH_CUDA_ARCHS ?= native
build/gpu.stamp: export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
build/gpu.stamp: $(INPUTS) $(wildcard cuda/* python/athsearch/*.py python/athsearch/*/*.py)
	rm -rf build/gpu && mkdir -p build
	$(PYTHON) -m pip install --no-build-isolation --no-deps --no-index --target build/gpu .
	touch $@

# Speed beside rivals, written to benchmarks/results; nothing else should run meanwhile.
bench: .venv/bench.stamp build/limits
	$(BIN)/python benchmarks/bench_scan.py --limits build/limits
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/bench_rerank.py
	$(BIN)/python benchmarks/bench_filters.py
	$(BIN)/python benchmarks/bench_encode.py
	$(BIN)/python benchmarks/bench_end_to_end.py

build/limits: benchmarks/limits.cpp
	mkdir -p build
	$(CXX) -O3 -march=native -pthread $< -o $@

# The same as archives grow to a billion codes; takes hours, 13 GB of memory and 12 GB of disk. TRAINED: two .npy files of
# a network's codes, the database's and the queries'.
bench-scale: .venv/bench.stamp build/limits
	$(BIN)/python benchmarks/bench_scale.py --limits build/limits $(if $(TRAINED),--trained $(TRAINED))
	$(BIN)/python benchmarks/scale_figure.py

# docs/quality.md: every loss on the sets of DATA, with several seeds; takes hours, goes on where it was stopped.
study: .venv/dev.stamp
	$(BIN)/python benchmarks/quality/study.py $(DATA)
	$(BIN)/python benchmarks/quality/report.py

# An hour of everything docs/embedding.md promises, in one process, and an array of more than 2^31 rows (17 GB of holes).
soak: .venv/dev.stamp
	$(BIN)/python benchmarks/soak.py

# A hundred thousand damaged files and expressions, in a quarter of an hour; a short form is part of `make test`.
fuzz: .venv/dev.stamp
	$(BIN)/python tests/fuzz/fuzz.py

# Readers see whole commits only, while another process writes to their archive without a pause.
soak-archive: .venv/dev.stamp
	$(BIN)/python benchmarks/soak_archive.py $(if $(MINUTES),--minutes $(MINUTES))

# Archives after power cuts, kills, full and failing disks; a quarter of an hour. docs/adr/0015 has what it shows.
crash: .venv/dev.stamp
	$(BIN)/python tests/crash/run.py

# An editable install: Python files are used where they stand, the C++ core is built anew when it changes.
.venv/%.stamp: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf .venv build demo-output
