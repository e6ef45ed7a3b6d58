# infbox: make demo shows it, make test proves it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

# How a lock is made: with hashes, and without a word about where packages come from.
LOCK := uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --no-header
# For every Python and platform.
COMPILE := $(LOCK) --universal
STAMP := $(VENV)/made-from-$(shell sha256sum requirements/dev.txt | cut -c1-16)

# Runs a playbook that prints for people; with JSON=1 the file that it writes is what is printed, and with
# CSV=1 where a playbook writes that too.
define play_or_json
$(if $(JSON)$(CSV),out=$$(mktemp); trap 'rm -f "$$out"' EXIT;) \
$(BIN)/ansible-playbook playbooks/$(1).yml $(ARGS) $(2) \
$(if $(JSON)$(CSV),-e infbox_$(1)_output="$$out" >&2; code=$$?; cat "$$out"; exit $$code)
endef

.DEFAULT_GOAL := help
.PHONY: help demo ask demo-down lowered-plan test test-fast fuzz lint bench bench-all simulate docs lock lab molecule system backup restore drill chaos interrupted conformance upgrade-test engine-cuda fleet replicas shared-cache multinode overlay rotation clients airgap collection bundle profile plan status usage models logs restart upgrade rollback keys rotate-secrets uninstall

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): requirements/dev.txt
	@echo "Making the virtual environment $(VENV) (half a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	@$(PYTHON) tools/make_environment.py $(VENV) requirements/dev.txt
	@# The collections, 30,000 files of which a few are used, are left to be compiled when they are.
	@$(BIN)/python -m compileall -q -j 0 -x ansible_collections $(VENV)/lib > /dev/null || true
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable watcher
	@touch $@

lab: $(STAMP) ## Set up the lab: Docker Engine, registry, images of lab hosts
	@$(BIN)/python -m lab up

demo: lab ## Deploy a demo host on this machine and query it; WORKSPACE=DIR for another source tree
	@$(BIN)/python -m demo up $(if $(WORKSPACE),--workspace "$(WORKSPACE)") $(if $(PICTURE),--picture "$(PICTURE)")

ask: export INFBOX_QUESTION := $(value Q)
ask: $(STAMP) ## Send a question: Q="…"; to the demo, or to a server: ARGS="--server https://SERVER --ca root.crt"
	@$(BIN)/python -m demo ask $(ARGS) -- "$$INFBOX_QUESTION"

demo-down: $(STAMP) ## Remove the demo and the lab completely
	@$(BIN)/python -m lab down --all

test: $(STAMP) ## Run all tests: lint, unit, molecule, whole system; CHANGED=1 or CHANGED=COMMIT runs only those affected by changes
	@$(BIN)/python -m tests.run $(if $(CHANGED),--changed $(CHANGED))

test-fast: $(STAMP) ## Run lint, unit and rendering tests, without the lab
	@$(BIN)/python -m tests.run --fast

molecule: lab ## Run the molecule scenarios of the roles; SCENARIO=NAME for one
	$(if $(SCENARIO),$(BIN)/molecule test --scenario-name $(SCENARIO),$(BIN)/python -m tests.run --only roles)

system: lab ## Run the whole-system tests
	$(BIN)/pytest -m "lab and not long" tests/system

lint: $(STAMP) ## Run ansible-lint, yamllint, ruff, mypy, shellcheck, specs, documents, dashboards, alerts
	@$(BIN)/python -m tests.run --only lint

fuzz: $(STAMP) ## Fuzz the watcher and the gateway; FUZZ_SECONDS=3600 (default: an hour), FUZZ_SEED=N
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),3600) FUZZ_SEED=$(or $(FUZZ_SEED),$(shell date +%s)) \
	$(BIN)/pytest -n 2 --dist loadfile -c watcher/pyproject.toml watcher/tests/fuzz

bench: $(STAMP) ## Benchmark the watcher and its packs against lower bounds and alternatives
	@$(BIN)/python -m bench.watch
	@$(BIN)/python -m bench.replay
	@$(BIN)/python -m bench.use
	@$(BIN)/python -m bench.retrieval
	@$(BIN)/python -m bench.growth

bench-all: $(STAMP) ## Run all benchmarks in turn (hours), and write docs/performance.md of their figures; ONLY="watch growth" for some
	@$(BIN)/python -m bench.figures run $(ONLY)

simulate: $(STAMP) ## Simulate how many hosts a number of developers needs, and draw the plots of docs/scale.md
	@$(BIN)/python -m bench.scale --plots docs/scale $(ARGS)

docs: $(STAMP) ## Generate the role pages (README.md) and the Grafana dashboards
	@$(BIN)/python tools/role_docs.py
	@$(BIN)/python tools/dashboards.py

lock: $(STAMP) ## Update the pinned Python requirements, with hashes
	cd watcher && $(COMPILE) --python-version 3.10 -o requirements.txt requirements.in
	$(COMPILE) --python-version 3.11 -c watcher/requirements.txt -o requirements/dev.txt requirements/dev.in
	$(COMPILE) --python-version 3.11 -c requirements/dev.txt -o requirements/ansible.txt requirements/ansible.in
	cd tests/conformance && $(COMPILE) --python-version 3.11 --no-deps -o requirements.txt requirements.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --excludes excludes-cpu.txt \
	  $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu) \
	  -o requirements-cpu.txt requirements-cpu.in
	@# Without find-links: a torch for CPUs there would be taken for the newer one.
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
	  --excludes excludes-cuda.txt -o requirements-cuda.txt requirements-cuda.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --no-deps -o requirements-smollm2.txt requirements-smollm2.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
	  -c requirements-cuda.txt -o requirements-hub.txt requirements-hub.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
	  -o requirements-uv.txt requirements-uv.in
	for name in aider instructor langchain-tests libraries litellm llamaindex; do \
	  $(LOCK) --python-version 3.11 -o requirements/clients/$$name.txt requirements/clients/$$name.in || exit; done
	@# What reads documents, pictures and speech, with 5 GB of CUDA: the tests have none of these.
	cd requirements/clients && $(LOCK) --python-version 3.11 --excludes open-webui-excludes.txt \
	  -o open-webui.txt open-webui.in
	cd requirements/clients && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

profile: $(STAMP) ## Run site.yml and show its duration by task and by role
	@ANSIBLE_CALLBACKS_ENABLED=infbox_workers,ansible.posix.profile_tasks,ansible.posix.profile_roles \
	$(BIN)/ansible-playbook site.yml $(ARGS)

plan: $(STAMP) ## Show whether each host's preset fits, and what else it could run; JSON=1 for scripts
	@$(call play_or_json,plan)

status: $(STAMP) ## Show the state of all hosts; JSON=1 for scripts
	@$(call play_or_json,status)

usage: $(STAMP) ## Show each user's tokens by day; BY=team, user or workspace; DAYS=400; JSON=1 or CSV=1 for scripts
	@$(call play_or_json,usage,$(if $(CSV),-e infbox_usage_format=csv) $(if $(BY),-e infbox_usage_by=$(BY)) \
	  $(if $(DAYS),-e infbox_usage_days=$(DAYS)))

models: $(STAMP) ## Download and list models; ARGS="-e infbox_models_verify=true" verifies all files
	@$(BIN)/ansible-playbook playbooks/models.yml $(ARGS)

logs: $(STAMP) ## Show the last log lines of all services; ARGS="-e service=vllm" for one; FOLLOW=1 ARGS="--service vllm" follows
	@$(if $(FOLLOW),$(BIN)/python tools/follow_logs.py,$(BIN)/ansible-playbook playbooks/logs.yml) $(ARGS)

backup: $(STAMP) ## Back up the hosts now; ARGS="-e infbox_backup_check=true" also verifies
	@$(BIN)/ansible-playbook playbooks/backup.yml $(ARGS)

restore: $(STAMP) ## Restore hosts from their backups; ARGS=--check shows what would be restored
	@$(BIN)/ansible-playbook playbooks/restore.yml $(ARGS)

airgap: lab ## Test an air-gapped deployment from an offline bundle on lab hosts
	$(BIN)/pytest -s tests/system/test_airgap.py

chaos: lab ## Test faults on a lab host under load, and print what clients notice of each (half an hour)
	$(BIN)/pytest -s tests/system/test_chaos.py tests/system/test_losses.py

interrupted: lab ## Test that killed runs of site.yml are completed by the next run (20 to 60 minutes)
	$(BIN)/pytest -s tests/system/test_interrupted.py

lowered-plan: lab ## Test that a plan with too little memory for vLLM is lowered, on a lab host (20 minutes)
	$(BIN)/pytest -s tests/system/test_lowered_plan.py

conformance: lab ## Test that vLLM's and langchain's own tests, and requests of vLLM's schema, pass through infbox as directly, on the demo's host or one of its own (hours on two cores; ARGS="-k responses" runs some)
	$(BIN)/pytest -s -m long tests/conformance $(ARGS)

upgrade-test: lab ## Test the upgrade of a lab host from the last tag to this checkout
	$(BIN)/pytest -s -rs tests/system/test_upgrade.py

engine-cuda: lab ## Build the CUDA engine image (4 GB to download) and test it without a GPU
	$(BIN)/pytest -s tests/engine_cuda

fleet: lab ## Test a lab host that monitors another one
	$(BIN)/pytest -s -m long tests/system/test_monitoring.py

replicas: lab ## Test two lab hosts behind one name: one fails, a third is added (half an hour)
	$(BIN)/pytest -s tests/system/test_replicas.py

multinode: lab ## Test one model over two lab hosts, with failures of each (half an hour)
	$(BIN)/pytest -s tests/system/test_multinode.py

shared-cache: lab ## Test the shared cache of two lab hosts, with failures (a quarter of an hour)
	$(BIN)/pytest -s tests/system/test_shared_cache.py

overlay: lab ## Test a developer's overlay over a base workspace on a lab host (a quarter of an hour)
	$(BIN)/pytest -s tests/system/test_overlay.py

rotation: lab ## Test the rotation of all secrets on a lab host
	$(BIN)/pytest -s tests/system/test_rotation.py

clients: lab ## Test all clients that can be installed here through a lab host, NAMES="openai llm"; ARGS="--server https://… --ca … --key-file …" takes another host (docs/clients.md)
	@$(BIN)/python -m tests.clients $(NAMES) $(ARGS)

drill: lab ## Test the restore of a lost lab host from its backup
	$(BIN)/pytest tests/backup/test_drill.py

collection: lab ## Test the Ansible collection: build, install, deploy a lab host with it (a quarter of an hour)
	$(BIN)/pytest -s tests/collection

bundle: $(STAMP) ## Make an offline bundle for air-gapped hosts; ARGS="--limit HOST -e bundle=/DIRECTORY"
	@$(BIN)/ansible-playbook playbooks/bundle.yml $(ARGS)

restart: $(STAMP) ## Restart all services; ARGS="-e service=vllm" for one
	@$(BIN)/ansible-playbook playbooks/restart.yml $(ARGS)

upgrade: $(STAMP) ## Upgrade the hosts to this checkout, the first one alone; ARGS=--check shows the changes
	@$(BIN)/ansible-playbook playbooks/upgrade.yml $(ARGS)

# One action on one key: what is given first of these.
KEY_ACTION := $(strip $(foreach action,ADD ROTATE DISABLE REMOVE REVOKE SYNC,$(if $($(action)),$(action))))

keys: $(STAMP) ## List users' keys; ADD=USER LABEL=NAME EXPIRES=2027-01-31 makes one, ROTATE=USER/LABEL, DISABLE= and REMOVE= likewise, REVOKE=USER ends all; SYNC=1 gives all replicas the same; ARGS=--check shows what would change
	$(if $(word 2,$(KEY_ACTION)),$(error Give one of $(KEY_ACTION), not all: each run does one thing))
	@$(BIN)/ansible-playbook playbooks/keys.yml \
	$(if $(KEY_ACTION),-e action=$(shell echo $(KEY_ACTION) | tr A-Z a-z)) \
	$(if $(filter-out SYNC,$(KEY_ACTION)),-e 'user=$($(KEY_ACTION))') \
	$(if $(LABEL),-e 'label=$(LABEL)') $(if $(EXPIRES),-e 'expires=$(EXPIRES)') $(ARGS)

rotate-secrets: $(STAMP) ## Rotate secrets; ARGS="-e secret=users", or kv, backup, monitoring
	@$(BIN)/ansible-playbook playbooks/rotate_secrets.yml $(ARGS)

rollback: $(STAMP) ## Roll back to the previous release; ARGS="-e release=N" for another
	@$(BIN)/ansible-playbook playbooks/rollback.yml $(ARGS)

uninstall: $(STAMP) ## Show what uninstalling would remove; ARGS="-e infbox_uninstall_confirmed=true" removes it
	@$(BIN)/ansible-playbook playbooks/uninstall.yml $(ARGS)
