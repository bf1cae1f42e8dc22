# What a person types here; `make` alone lists it. All of it runs from .venv, which is made on the first call.
PYTHON ?= python3
BIN := .venv/bin
FRAME := pyproject.toml settings.ini setup.py constraints.txt
NB ?= $(wildcard nbs/[0-9a-z]*.ipynb)

# The real images, where the tests find them; without the folder they say so and skip.
IMAGES := $(shell cd "$${CHEST_XRAY:-../shared/chest_xray}" 2>/dev/null && pwd)
ifneq ($(IMAGES),)
export CHEST_XRAY := $(IMAGES)
else
unexport CHEST_XRAY
endif

.PHONY: help demo test fuzz bench jitter nbs docs clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: .venv/.installed  ## Install, then a small study on generated images; ends with the report's path
	$(BIN)/pneumo-study --size 64 --item-size 96 --bs 32 --frozen 1 --unfrozen 5 --lr-unfrozen .002 --no-pretrained --out study --overwrite

test: .venv/.installed-dev  ## Every check: export, style, pytest, wheel, notebooks (STRICT=1: stored outputs too)
	@$(BIN)/python tools/check.py $(if $(STRICT),--strict)

bench: .venv/.installed  ## Measure this machine beside plain fastai, a quarter of an hour (ARGS='--images FOLDER': your images)
	$(BIN)/python -m benchmarks $(ARGS)

fuzz: .venv/.installed-dev  ## The property-based tests and the hostile files with many new examples, twenty minutes or more
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q tests/test_tables.py tests/test_scores.py tests/test_dirty.py

jitter: .venv/.installed-dev  ## Run what trains with other processors' kernels and from other seeds (NB=nbs/33_train.ipynb ARGS="--seeds 20")
	$(BIN)/python tools/jitter.py $(if $(filter command line,$(origin NB)),$(NB)) $(ARGS)

nbs: .venv/.installed-dev  ## After editing notebooks: export, run and save outputs, clean, README, style (NB=nbs/12_data.ipynb: run that one)
	$(BIN)/nbdev-export
	printf '%s\n' $(NB) | OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 xargs -n 1 -P 2 $(BIN)/nbdev-test --save
	$(BIN)/nbdev-clean
	$(BIN)/python tools/readme.py
	$(BIN)/chkstyle --show-rule

docs:  ## Build the site into _docs/ (needs Quarto): pages, a sample report, llms.txt
	@command -v quarto >/dev/null || { echo "No site was built, for Quarto is not installed: get it from https://quarto.org/docs/get-started/, or let the docs workflow build the site on a pull request." >&2; exit 1; }
	@$(MAKE) --no-print-directory .venv/.installed-dev
	$(BIN)/nbdev-docs
	$(MAKE) --no-print-directory demo
	cp study/report.html _docs/sample.html
	$(BIN)/python tools/llms.py _docs

clean:  ## Remove what was built: packages, site, study, caches (.venv stays)
	rm -rf build dist *.egg-info _docs _proc study .pytest_cache .quarto nbs/.quarto
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

.venv/.installed: $(FRAME)
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e . -c constraints.txt
	@touch $@

.venv/.installed-dev: $(FRAME)
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt
	tools/hooks
	@touch .venv/.installed $@
