# The project's verbs. `make run` and `make test` are all that a fresh machine needs: scripts/bootstrap
# makes .venv, compiles native/ and finds out what the system lacks. Each verb may be run at any time.

.DEFAULT_GOAL := help
.PHONY: help run test fuzz chaos chaos-cluster netns dev-cluster lint types docs monitoring bench build dist \
  install-check clean

VENV ?= .venv
export VENV JOBS
bin := $(VENV)/bin

help: ## say what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start the server and print where the demo page is (HOST=… PORT=…)
	@scripts/bootstrap run
	@exec $(bin)/realtime serve $(if $(HOST),--host '$(HOST)') $(if $(PORT),--port '$(PORT)') $(ARGS)

test: ## run all tests, some at once (JOBS=3); ARGS="tests/core -x" for some of them
	@scripts/bootstrap test
	@$(if $(ARGS),$(bin)/python -m pytest $(ARGS),scripts/test)

fuzz: ## throw random bytes at a server (ARGS="--seconds 600")
	@scripts/bootstrap test
	@$(bin)/python -m tests.fuzz $(ARGS)

chaos: ## kill a server under clients that come and go (ARGS="--kills 200 --seed 1")
	@scripts/bootstrap test
	@$(bin)/python -m tests.chaos $(ARGS)

dev-cluster: ## run a Redis Cluster of six nodes until ^C (ARGS="--port-base 7000")
	@scripts/bootstrap test
	@exec $(bin)/realtime dev-cluster $(ARGS)

chaos-cluster: ## the same to workers and Redis nodes (ARGS="--seconds 120 --seed 1 --store postgres")
	@scripts/bootstrap test
	@$(bin)/python -m tests.cluster $(ARGS)

netns: ## a real chat log across two hosts in network namespaces (ARGS="FILE --days 10")
	@scripts/bootstrap test
	@$(bin)/python -m tests.cluster.replay $(ARGS)

lint: ## ruff and cython-lint
	@scripts/bootstrap test
	@$(bin)/ruff check .
	@PATH="$(abspath $(bin)):$$PATH" cython-lint native

types: ## mypy, strict
	@scripts/bootstrap test
	@$(bin)/mypy

docs: ## write docs/*.md anew from the settings, messages, metrics and commands
	@scripts/bootstrap test
	@$(bin)/python scripts/docs.py

monitoring: ## write systemd/monitoring/ anew: dashboards, rules, a scrape configuration
	@scripts/bootstrap test
	@$(bin)/python scripts/monitoring.py

bench: ## measure on this machine (minutes; ARGS=… goes to the benchmark)
	@scripts/bootstrap test
	@$(bin)/python -m bench $(ARGS)

build: ## make the environment and compile native/ in place
	@scripts/bootstrap run

dist: ## make sdist and wheel in dist/, and prove that the sdist installs and runs
	@scripts/bootstrap test
	@scripts/dist

install-check: ## install and run it by docs/install.md on a clean Debian with a systemd of its own (root)
	@scripts/bootstrap test
	@command -v debootstrap >/dev/null || apt-get install --yes --no-install-recommends debootstrap
	@scripts/dist
	@$(bin)/python scripts/install_check.py --record docs/install-check.md $(ARGS)

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f native/*.so native/*.c realtime/native
	find realtime native tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
