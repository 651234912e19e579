# Everything here is idempotent and asks nothing. On a fresh Debian 12 each target does the set-up that it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v /usr/bin/python3.11 || command -v python3)
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := containerd runc containernetworking-plugins nftables iproute2 python3-venv ca-certificates bubblewrap git libbpf1 clang libbpf-dev
CLIENTS := kopf==1.45.* kr8s==0.20.* kubernetes_asyncio==36.* lightkube==1.0.* patroni==4.1.* "psycopg[binary]==3.3.*"
TEST_PACKAGES := docker-registry curl busybox-static buildah age skopeo zstd xfsprogs debuginfod dwz gnupg g++
# Of `make test-long` alone.
LONG_PACKAGES := postgresql
# Where a demo keeps its data; another engine can run beside it.
DEMO_DATA ?= /var/lib/trimtab
DEMO_FLAGS ?=
DEMO_INFRA ?= /var/lib/trimtab-infra

.PHONY: help setup setup-test demo demo-stop demo-infra demo-infra-stop test test-long test-kubernetes test-cluster test-clients lint bench bench-kubernetes clean

help:
	@echo "make setup | demo | demo-stop | demo-infra | demo-infra-stop | test | test-long | test-kubernetes | test-cluster | test-clients | lint | bench | bench-kubernetes | clean"

setup: build/debian.done build/venv.done build/schemas.done build/web.done build/bpf.done

setup-test: setup build/debian-test.done build/s3.done build/clients.done build/helm.done build/tf.done

build/debian.done: Makefile
	@mkdir -p build
	@.ci/debian-packages $(SUDO) $(PACKAGES)
	@touch $@

build/debian-test.done: Makefile
	@mkdir -p build
	@.ci/debian-packages $(SUDO) $(TEST_PACKAGES)
	@touch $@

build/venv.done: pyproject.toml build/debian.done
	@echo "setup: Python environment in .venv"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -U "pip>=25.1"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e . --group build --group test --group lint
	@touch $@

# An S3 server for tests, in an environment of its own: what it needs does not go with what our other tests need.
build/s3.done: Makefile build/debian.done
	@echo "setup: S3 server for tests"
	@[ -x build/s3/bin/python ] || $(PYTHON) -m venv build/s3
	@build/s3/bin/python -m pip install -q --disable-pip-version-check "moto[server]==5.2.*"
	@touch $@

# Clients of the API that others wrote, in an environment of their own, too: tests run programs in it.
build/clients.done: Makefile build/debian.done
	@echo "setup: Kubernetes clients for tests"
	@[ -x build/clients/bin/python ] || $(PYTHON) -m venv build/clients
	@build/clients/bin/python -m pip install -q --disable-pip-version-check wheel
	@build/clients/bin/python -m pip install -q --disable-pip-version-check $(CLIENTS)
	@touch $@

# A Terraform provider that is written with a package of others, which asks for an older protobuf than we do.
build/tf.done: Makefile build/debian.done
	@echo "setup: a provider for tests"
	@[ -x build/tf/bin/python ] || $(PYTHON) -m venv build/tf
	@build/tf/bin/python -m pip install -q --disable-pip-version-check "tf==1.2.*"
	@touch $@

# Helm's library is for Python 3.12 and later; where there is none, its test says that it is skipped.
build/helm.done: Makefile .ci/helm
	@mkdir -p build
	@.ci/helm
	@touch $@

build/schemas.done: build/venv.done src/trimtab/server/schemas_build.py
	@echo "setup: index of the published Kubernetes schemas"
	@$(BIN)/python -m trimtab.server.schemas_build
	@touch $@

build/web.done: build/venv.done $(shell find frontend -type f -not -path '*/node_modules/*' 2>/dev/null)
	@echo "setup: dashboard"
	@.ci/build-web
	@touch $@

build/bpf.done: build/debian.done .ci/build-bpf $(wildcard src/trimtab/components/profiling/bpf/*.[ch])
	@echo "setup: BPF programs"
	@.ci/build-bpf
	@touch $@

demo: setup
	@$(SUDO) .ci/demo $(DEMO_DATA) $(DEMO_FLAGS)

demo-stop:
	@$(SUDO) $(BIN)/trimtab --data $(DEMO_DATA) uninstall --yes

# A cluster at a cloud is lost, and comes back with everything in it.
demo-infra: setup
	@$(SUDO) .ci/demo-infra $(DEMO_INFRA) $(DEMO_FLAGS)

demo-infra-stop:
	@$(SUDO) .ci/demo-infra $(DEMO_INFRA) --stop

test: setup-test
	@.ci/test

# Debian's PostgreSQL would make a cluster of its own and start it.
build/debian-long.done: Makefile
	@mkdir -p build
	@[ -e /etc/postgresql-common ] || { $(SUDO) mkdir /etc/postgresql-common && \
	  echo "create_main_cluster = false" | $(SUDO) tee /etc/postgresql-common/createcluster.conf >/dev/null; }
	@.ci/debian-packages $(SUDO) $(LONG_PACKAGES)
	@touch $@

test-long: setup-test build/debian-long.done
	@.ci/test --long

test-kubernetes: setup-test
	@.ci/test --kubernetes

test-cluster: setup-test
	@.ci/test --cluster

# Needs Go and npm for most of it; what cannot be had is skipped with a line.
test-clients: setup-test
	@.ci/test --clients

# Kubernetes' own conformance tests; the score goes into docs/conformance.md.
conformance-score: setup-test
	@programs=$$(.ci/conformance-programs) && $(SUDO) env "PATH=$$PATH" $(BIN)/python .ci/conformance-score "$$programs"

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: setup-test
	@failed=; for script in $(filter-out %/api_against_kubernetes.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; began=$$SECONDS; $(SUDO) $(BIN)/python $$script || failed="$$failed $$script"; echo "== took $$((SECONDS - began)) s"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

# Builds kube-apiserver once (a quarter of an hour), then takes about 12 minutes.
bench-kubernetes: setup-test
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group kubernetes
	@$(BIN)/python benchmarks/api_against_kubernetes.py

clean:
	rm -rf .venv build frontend/node_modules src/trimtab/web/static src/trimtab/server/schemas src/trimtab/components/profiling/bpf/*.o
