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

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test test-fast fuzz lint bench simulate docs lock lab molecule system backup restore drill chaos interrupted upgrade-test engine-cuda fleet replicas shared-cache multinode overlay rotation airgap bundle profile status models logs restart upgrade rollback rotate-secrets uninstall

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): requirements/dev.txt
	@echo "Making the virtual environment $(VENV) (half a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	@$(PYTHON) tools/make_environment.py $(VENV) requirements/dev.txt
	@# The collections, 30,000 files of which a few are used, are left to be compiled when they are.
	@$(BIN)/python -m compileall -q -j 0 -x ansible_collections $(VENV)/lib > /dev/null || true
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable watcher
	@touch $@

lab: $(STAMP) ## Make what lab hosts need: Engine, registry, images
	@$(BIN)/python -m lab up

demo: lab ## Show the whole line on this machine; WORKSPACE=DIR for another source tree
	@$(BIN)/python -m demo up $(if $(WORKSPACE),--workspace "$(WORKSPACE)")

demo-down: $(STAMP) ## Remove every trace of the demo and the lab
	@$(BIN)/python -m lab down --all

test: $(STAMP) ## Prove everything: lint, unit, molecule, the whole system; CHANGED=1 or COMMIT leaves out what no change can touch
	@$(BIN)/python -m tests.run $(if $(CHANGED),--changed $(CHANGED))

test-fast: $(STAMP) ## Lint, unit and rendering tests; no lab
	@$(BIN)/python -m tests.run --fast

molecule: lab ## The molecule scenarios alone; SCENARIO=NAME for one
	$(if $(SCENARIO),$(BIN)/molecule test --scenario-name $(SCENARIO),$(BIN)/python -m tests.run --only roles)

system: lab ## The whole-system test alone
	$(BIN)/pytest -m "lab and not long" tests/system

lint: $(STAMP) ## ansible-lint, yamllint, ruff, mypy, shellcheck, specs, documents, dashboards, alerts
	@$(BIN)/python -m tests.run --only lint

fuzz: $(STAMP) ## Look for inputs that break a budget or a promise; FUZZ_SECONDS=3600 (an hour), FUZZ_SEED=N
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),3600) FUZZ_SEED=$(or $(FUZZ_SEED),$(shell date +%s)) \
	$(BIN)/pytest -n 2 --dist loadfile -c watcher/pyproject.toml watcher/tests/fuzz

bench: $(STAMP) ## Measure the watcher and its packs against floors and peers of the same run
	@$(BIN)/python -m bench.watch
	@$(BIN)/python -m bench.replay
	@$(BIN)/python -m bench.use
	@$(BIN)/python -m bench.retrieval

simulate: $(STAMP) ## How many hosts for how many developers: simulate and draw docs/scale.md's plots
	@$(BIN)/python -m bench.scale --plots docs/scale $(ARGS)

docs: $(STAMP) ## Generate the role pages from their specs, and the dashboards
	@$(BIN)/python tools/role_docs.py
	@$(BIN)/python tools/dashboards.py

lock: $(STAMP) ## Pin requirements anew, with hashes
	cd watcher && $(COMPILE) --python-version 3.10 -o requirements.txt requirements.in
	$(COMPILE) --python-version 3.11 -c watcher/requirements.txt -o requirements/dev.txt requirements/dev.in
	$(COMPILE) --python-version 3.11 -c requirements/dev.txt -o requirements/ansible.txt requirements/ansible.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --excludes excludes-cpu.txt \
	  $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu) \
	  -o requirements-cpu.txt requirements-cpu.in
	@# Without find-links: a torch for CPUs there would be taken for the newer one.
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
	  --excludes excludes-cuda.txt -o requirements-cuda.txt requirements-cuda.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
	  -c requirements-cuda.txt -o requirements-hub.txt requirements-hub.in
	cd files/engine && $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
	  -o requirements-uv.txt requirements-uv.in

profile: $(STAMP) ## Where the time of site.yml goes, by task and by role
	@ANSIBLE_CALLBACKS_ENABLED=infbox_workers,ansible.posix.profile_tasks,ansible.posix.profile_roles \
	$(BIN)/ansible-playbook site.yml $(ARGS)

status: $(STAMP) ## How the hosts are; JSON=1 for scripts
	@$(if $(JSON),out=$$(mktemp); trap 'rm -f "$$out"' EXIT;) \
	$(BIN)/ansible-playbook playbooks/status.yml $(ARGS) \
	$(if $(JSON),-e infbox_status_output="$$out" >&2; code=$$?; cat "$$out"; exit $$code)

models: $(STAMP) ## Bring the models and list them; ARGS="-e infbox_models_verify=true" reads all again
	@$(BIN)/ansible-playbook playbooks/models.yml $(ARGS)

logs: $(STAMP) ## The last lines of every service; ARGS="-e service=vllm" for one; FOLLOW=1 ARGS="--service vllm" goes on
	@$(if $(FOLLOW),$(BIN)/python tools/follow_logs.py,$(BIN)/ansible-playbook playbooks/logs.yml) $(ARGS)

backup: $(STAMP) ## Back the hosts up now; ARGS="-e infbox_backup_check=true" verifies as well
	@$(BIN)/ansible-playbook playbooks/backup.yml $(ARGS)

restore: $(STAMP) ## Bring the state of hosts back; ARGS=--check says what would be
	@$(BIN)/ansible-playbook playbooks/restore.yml $(ARGS)

airgap: lab ## Deploy a lab host that has no way out from a bundle
	$(BIN)/pytest -s tests/system/test_airgap.py

chaos: lab ## Make faults on a lab host under load, and print what a user sees of each (half an hour)
	$(BIN)/pytest -s tests/system/test_chaos.py tests/system/test_losses.py

interrupted: lab ## Cut off runs on a lab host after a change each, until all is done (20 to 60 minutes)
	$(BIN)/pytest -s tests/system/test_interrupted.py

upgrade-test: lab ## Bring a lab host from the last tag to this checkout
	$(BIN)/pytest -s -rs tests/system/test_upgrade.py

engine-cuda: lab ## Build the CUDA engine image (4 GB to download) and prove it as far as no GPU is needed
	$(BIN)/pytest -s tests/engine_cuda

fleet: lab ## Have one lab host watch over another
	$(BIN)/pytest -s -m long tests/system/test_monitoring.py

replicas: lab ## Have two lab hosts stand behind one name, lose one, add a third (half an hour)
	$(BIN)/pytest -s tests/system/test_replicas.py

multinode: lab ## Have two lab hosts hold one model, and lose each (half an hour)
	$(BIN)/pytest -s tests/system/test_multinode.py

shared-cache: lab ## Have two lab hosts share a cache, freeze it, kill it, take it away (a quarter of an hour)
	$(BIN)/pytest -s tests/system/test_shared_cache.py

overlay: lab ## Have a lab host keep a developer's tree warm over another one (a quarter of an hour)
	$(BIN)/pytest -s tests/system/test_overlay.py

rotation: lab ## Give a lab host other secrets, one kind after the other
	$(BIN)/pytest -s tests/system/test_rotation.py

drill: lab ## Lose a lab host and bring it back from its backup
	$(BIN)/pytest tests/backup/test_drill.py

bundle: $(STAMP) ## Collect what hosts without a way out need; ARGS="--limit HOST -e bundle=/FOLDER"
	@$(BIN)/ansible-playbook playbooks/bundle.yml $(ARGS)

restart: $(STAMP) ## Restart all services; ARGS="-e service=vllm" for one
	@$(BIN)/ansible-playbook playbooks/restart.yml $(ARGS)

upgrade: $(STAMP) ## Bring the hosts to this checkout, the first one alone; ARGS=--check says what would change
	@$(BIN)/ansible-playbook playbooks/upgrade.yml $(ARGS)

rotate-secrets: $(STAMP) ## Other secrets; ARGS="-e secret=users", or kv, backup, monitoring
	@$(BIN)/ansible-playbook playbooks/rotate_secrets.yml $(ARGS)

rollback: $(STAMP) ## Go back to the release before; ARGS="-e release=N" for another
	@$(BIN)/ansible-playbook playbooks/rollback.yml $(ARGS)

uninstall: $(STAMP) ## Say what would be taken off the hosts; ARGS="-e infbox_uninstall_confirmed=true" does it
	@$(BIN)/ansible-playbook playbooks/uninstall.yml $(ARGS)
