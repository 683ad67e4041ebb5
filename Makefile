# make demo: the whole road on images drawn on the spot. make test: everything CI runs.
PYTHON ?= python3
BIN := .venv/bin
CXX_FILES := $(wildcard csrc/*.cpp csrc/*.h csrc/kernels/*.cpp tests/csrc/*.cpp tests/csrc/*/*.h)
INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.cpp csrc/*.h csrc/kernels/*.cpp)

.PHONY: demo test lint format clean

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

# An editable install: Python files are used where they stand, the C++ core is built anew when it changes.
.venv/%.stamp: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf .venv build demo-output
