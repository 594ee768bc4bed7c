# make demo         installs into .venv and shows the library on a photograph; the pictures land in demo/
# make test         installs into .venv, checks style and types, and runs the tests, all but tests/peers
# make test-peers   adds PyTorch, Captum, ONNX, ONNX Runtime and Numba to .venv, and runs tests/peers
# make bench        installs the same, and measures a few points of each job beside their peers, in minutes; make bench-full: all
# make report       writes the tables and plots of the READMEs and of docs/ from benchmarks/results/; make test fails if they are stale
# All need Python 3.11, make and git. Another interpreter: make test PYTHON=/path/to/python

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# Chainer builds with setuptools<81 only. pip before 25.3 reads the first name for its builds, later ones the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

INSTALL_INPUTS := setup.py $(wildcard startup/*) pyproject.toml constraints.txt

.PHONY: demo test test-peers bench bench-full lint report clean

demo: .venv/demo.stamp
	$(BIN)/python -m dcnn_visualizer demo

test: lint .venv/chainercv.stamp
	$(BIN)/python -m pytest

test-peers: .venv/peers.stamp
	$(BIN)/python -m pytest tests/peers

# Points that the results have are left; to measure them again: make bench BENCH=--replace
bench: .venv/peers.stamp
	$(BIN)/python benchmarks/suite.py --short $(BENCH)

bench-full: .venv/peers.stamp
	$(BIN)/python benchmarks/suite.py $(BENCH)

lint: .venv/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python benchmarks/report.py --check

report: .venv/test.stamp
	$(BIN)/python benchmarks/report.py

.venv/venv.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "DNN-Visualizer needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo.stamp: .venv/venv.stamp $(INSTALL_INPUTS)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

.venv/test.stamp: .venv/venv.stamp $(INSTALL_INPUTS)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

.venv/peers.stamp: .venv/test.stamp
	$(BIN)/python -m pip install --quiet --editable '.[peers]'
	touch $@

.venv/chainercv.stamp: .venv/test.stamp dcnn_visualizer/chainercv_install.py
	$(BIN)/python -m dcnn_visualizer.chainercv_install
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
