# make demo    set up .venv and run the simulated robot, the policy and its teacher (no torch)
# make test    set up .venv with torch and the test tools, and run every test
# make check   lint, types, import table and tests: what .ci/run does
# make models  train and export the shipped policies again
# make help    every target
# PYTHON=/path/to/python3 chooses the interpreter, KILTED=0 leaves the second set of ROS wheels out.

.DEFAULT_GOAL := help
.NOTPARALLEL: # two targets may set up the same environment
.PHONY: help demo distill models test test-kilted check lint type layers format clean

VENV := .venv/bin/python
KILTED ?= 1
PYTEST_ARGS ?=
RUNS ?= runs/shipped
export PYTHON

# What a Python of the ROS wheels leaves in the environment of its children breaks another one.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH PYTHONPATH
endif
unexport PYTHONHOME

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile

demo: ## the simulated robot driven over DDS, ending in a table and a picture
	@.ci/setup robot
	@$(VENV) -m vdd_ros demo

distill: ## .venv with torch, for training: then .venv/bin/vdd train-teacher --help
	@.ci/setup distill
	@echo "next: .venv/bin/vdd train-teacher --help"

# The contract's task is rolled out at export, so the files carry what they reach.
models: ## the shipped policies, from the scripted demonstrations to models/avoiding/*.onnx
	@.ci/setup distill
	$(VENV) -m vdd_ros train-teacher --out $(RUNS)/teacher
	$(VENV) -m vdd_ros distill --teacher $(RUNS)/teacher --out $(RUNS)/student
	$(VENV) -m vdd_ros export $(RUNS)/teacher --out models/avoiding/teacher.onnx
	$(VENV) -m vdd_ros export $(RUNS)/student --out models/avoiding/student.onnx

test: test-kilted ## every test
	@.ci/setup test
	@$(VENV) -m pytest $(PYTEST_ARGS)

# With a ROS 2 sourced, that one is tested; elsewhere the nodes run on both sets of wheels.
test-kilted: ## the node tests on the Kilted wheels, where they can be installed
ifneq ($(KILTED),0)
ifndef ROS_DISTRO
	@if .ci/setup kilted; then .venv-kilted/bin/python -m pytest -q tests/nodes $(PYTEST_ARGS); \
	else echo "test-kilted: skipped, the Kilted wheels could not be installed here"; fi
endif
endif

check: lint type layers test ## lint, types, import table and tests

lint: ## ruff, without changing anything
	@.ci/setup test
	@$(VENV) -m ruff check
	@$(VENV) -m ruff format --check

type: ## mypy
	@.ci/setup test
	@$(VENV) -m mypy

layers: ## which room may import which
	@.ci/setup test
	@.venv/bin/lint-imports

format: ## rewrite the sources as ruff wants them
	@.ci/setup test
	@$(VENV) -m ruff check --fix
	@$(VENV) -m ruff format

clean: ## remove what was built; the environments stay (rm -rf .venv .venv-kilted for those)
	rm -rf build install log demo_output vdd_ros.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks
	find vdd_ros tests launch -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
