# A few words do everything: make test, make lint, make docs, make results.
PYTHON = .venv/bin/python

.venv: requirements.txt setup.py
	python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt -e . && touch .venv

.PHONY: test lint docs results format
test: .venv
	$(PYTHON) -m pytest -n 2

lint: .venv
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

format: .venv
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .

docs: .venv
	$(PYTHON) -m docs.render --check
	.venv/bin/sphinx-build -q -W --keep-going -j 2 docs docs/_build/html

# Every table of docs/results anew (about an hour on two cores), then the pages that show them.
results: .venv
	$(PYTHON) -m docs.record --all
	$(PYTHON) -m docs.render
