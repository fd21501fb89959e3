# Everything runs in .venv, which `make setup` makes. Another interpreter: make setup PYTHON=python3.12
# torch alone, first: otherwise a resolver may pick another build of it for some dependency's sake.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
STAMP := .venv/.installed
# CI tests what users install; people want their edits to count at once.
EDITABLE := $(if $(filter true,$(CI)),,--editable)
KERNELS := src/tailrank/kernels
BUILD_KERNELS = $(BIN)/cmake -S $(KERNELS)/csrc -G Ninja --log-level=WARNING \
	-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python)
# The preloaded runtimes have to come before anything that Python loads; Python's own memory is not
# given back at exit, so leaks say nothing.
SANITIZED = LD_PRELOAD="$(shell $(CXX) -print-file-name=libasan.so) \
	$(shell $(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize/site

.PHONY: setup kernels sanitize demo test check fmt bench golden

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet $(EDITABLE) . --group dev
	$(if $(EDITABLE),$(MAKE) kernels STAMP= || echo "No native kernels: see tailrank doctor.")
	touch $@

# The extension into the source tree, where an editable install finds it: after editing C++.
kernels: $(STAMP)
	$(BUILD_KERNELS) -B build/kernels -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(abspath $(KERNELS))
	$(BIN)/cmake --build build/kernels

# The kernels' tests on an extension that stops at the first bad read or undefined operation.
sanitize: $(STAMP)
	rm -rf build/sanitize/site
	mkdir -p build/sanitize/site
	cp -r src/tailrank build/sanitize/site
	rm -f build/sanitize/site/tailrank/kernels/*.so
	$(BUILD_KERNELS) -B build/sanitize/objects -DTAILRANK_SANITIZE=ON \
		-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(abspath build/sanitize/site/tailrank/kernels)
	$(BIN)/cmake --build build/sanitize/objects
	$(SANITIZED) $(BIN)/python -m pytest -q tests/contract/test_lookup.py \
		tests/contract/test_dense.py tests/contract/test_fused_dlrm.py \
		tests/contract/test_sparse_update.py tests/contract/test_sparse_requests.py \
		tests/contract/test_recurrence.py tests/contract/test_attention.py \
		tests/contract/test_trained_linear.py --hypothesis-profile=fuzz \
		--hypothesis-show-statistics

demo: setup
	$(BIN)/tailrank demo --overwrite

# A process a core, one torch thread in each; files stay whole, as what a module makes is made once.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: setup
	$(if $(EDITABLE),-$(MAKE) --no-print-directory kernels)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file --quick || exit; done

golden: setup
	$(BIN)/python -m pytest tests/golden
