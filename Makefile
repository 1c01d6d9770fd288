# Each target sets up .venv by itself when it is missing or what it needs has changed.
PYTHON ?= python3
BIN := .venv/bin
export MPLBACKEND := agg

.PHONY: demo test accept soak lint serve clean
demo: .venv/installed
	$(BIN)/python scripts/brain_demo.py --output demo

test: .venv/installed
	$(BIN)/python -m pytest -m "not accept and not soak"

accept: .venv/installed
	$(BIN)/python -m pytest -m accept

soak: .venv/installed
	$(BIN)/python -m pytest -m soak

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: requirements.txt pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable ".[demo,dev]"
	touch .venv/installed

serve: .venv/installed
	$(BIN)/python scripts/brain_studies.py --folder demo/studies
	$(BIN)/python scripts/serve.py --studies demo/studies --labels thalamus,putamen,caudate

clean:
	rm -rf .venv demo
