# Everything here sets itself up: a fresh clone needs python3 and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo run test lint bench chaos soak clean constraints proto

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[local,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/tidegate demo --events 50000

run: $(STAMP)
	$(BIN)/tidegate up --without-keys

lint: $(STAMP)
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 3 --dist loadfile -m "not soak and not chaos"

soak: $(STAMP)
	$(BIN)/pytest -m soak

# make chaos ARGS="--seed 7 --seconds 45": what comes of faults that the seed decides on
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(STAMP)
	$(BIN)/tidegate bench all

# The Python code of subjects/schema/services.proto; a test fails where it is another.
proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -Itidegate/proto=subjects/schema --python_out=src --pyi_out=src \
		--grpc_python_out=src tidegate/proto/services.proto

constraints: $(STAMP)
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable | grep -v -E '^(pip|setuptools)==' > constraints.txt

clean:
	-test -x $(BIN)/tidegate && $(BIN)/tidegate down --quiet
	rm -rf .venv .tidegate .pytest_cache .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
