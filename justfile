# Recipes for developers: `just` lists them. Without an active environment they use .venv, which `just setup` makes.

venv := env("VIRTUAL_ENV", justfile_directory() / ".venv")
python := venv / "bin" / "python"

_default:
    @just --list

# An editable install with the tests' dependencies and every tool used here, pinned.
setup:
    python3 -m venv {{ venv }}
    {{ python }} -m pip install --quiet --constraint requirements.lock -e '.[dev,docs]'

# Before every commit, under two minutes on two cores: linters, and all tests that are not marked slow.
quick: lint
    {{ python }} -m pytest -m "not slow and not exhaustive"

# Everything: linters, the whole test suite, the documentation, the package.
all: lint test docs package

# Style and types.
lint:
    {{ python }} -m ruff check .
    {{ python }} -m ruff format --check .
    {{ python }} -m pyright --pythonpath {{ python }}

# The whole test suite, exhaustive tests too; tests of real measurements skip with the reason where these are missing.
test:
    {{ python }} -m pytest -m ""

# The documentation site in site/, with warnings as errors.
docs:
    @if {{ python }} -c 'import mkdocs' 2>/dev/null; then {{ python }} -m mkdocs build --quiet --strict; \
    else echo "docs: skipped, mkdocs is not installed: pip install -c requirements.lock -e '.[docs]'"; fi

# Wheel and sdist into dist/, installed and used without the checkout.
package:
    {{ python }} .ci/package
