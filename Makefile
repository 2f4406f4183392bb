# The two commands of the README, and what CI runs. Each makes its own .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check wheel clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev,mock,distributed,train,search,evaluate,predict]'
	touch $@

demo: .venv/.installed
	$(BIN)/astroclip demo demo --overwrite

test: .venv/.installed
	$(BIN)/python -m pytest

check: .venv/.installed wheel
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A wheel, installed with its own dependencies into an environment that sees nothing of this folder.
wheel: .venv/.installed
	rm -rf build dist .wheel-venv
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(PYTHON) -m venv .wheel-venv
	.wheel-venv/bin/pip install --quiet dist/*.whl
	cd dist && ../.wheel-venv/bin/astroclip --version && ../.wheel-venv/bin/astroclip --help >/dev/null
	cd dist && ../.wheel-venv/bin/astroclip --json models init mini -o model >/dev/null && rm -rf model
	rm -rf .wheel-venv

clean:
	rm -rf .venv .wheel-venv build dist demo *.egg-info
