# Two commands do everything on a bare Debian 12 with Rust:
#   make run    prepares, builds, fetches the weights and serves
#   make test   prepares the same way and runs every check and test
# Builds, weights and test tools lie in one cache folder of the user, outside the checkout, and are made once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/viva
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_NET_RETRY ?= 5
# For the tests that start outside parties.
export VIVA_VENV ?= $(CACHE)/venv
export VIVA_NODE ?= $(CACHE)/node

PROFILE ?= default
LISTEN ?= 127.0.0.1:8790
VIVA := $(CARGO_TARGET_DIR)/release/viva
# One command line for the engines everywhere: cargo unifies features over what it builds together, and
# another set would compile llama.cpp and whisper.cpp again.
ENGINES := -p viva-engine-whisper -p viva-engine-llama -p viva-engine-piper

.PHONY: help run test calibrate setup setup-test crates engines build weights weights-test index lint soak bench clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup engines build weights calibrate ## prepare everything, then serve (PROFILE=default LISTEN=127.0.0.1:8790)
	@echo; echo "  Viva starts. Open http://$(LISTEN)/ in a browser and click the microphone. Ctrl-C ends it."; echo
	@exec $(VIVA) serve --listen $(LISTEN) --profile $(PROFILE)

test: setup-test engines build weights-test index lint ## prepare everything, then check and test everything
	scripts/test.sh
	cargo test --release --locked $(ENGINES) --bins
	node tests/browser/run.mjs

calibrate: weights ## measure once how many threads each engine is worth on this machine
	@$(VIVA) calibrate --profile $(PROFILE) --if-needed

setup: ## install the system packages that building needs
	@scripts/setup.sh build

setup-test: ## install what the tests play, speak and drive as well
	@scripts/setup.sh test
	@scripts/test-tools.sh $(CACHE)

crates:
	@for wait in 2 6 18 0; do \
	    cargo fetch --locked --quiet && exit 0; \
	    [ $$wait = 0 ] || { echo "crates: trying again in $$wait s" >&2; sleep $$wait; }; \
	done; exit 1

engines: crates ## build the engine processes (C++; minutes the first time)
	@scripts/native.sh
	cargo build --release --locked $(ENGINES)

build: crates ## build the viva binary
	cargo build --release --locked -p viva

weights: build ## fetch the weights of PROFILE
	$(VIVA) models pull --profile $(PROFILE)

weights-test: build
	$(VIVA) models pull --profile default --profile test
	$(VIVA) models pull --profile quality --only embed --only asr

index: weights ## make the index of the question bank (a server makes it behind its first callers' backs)
	$(VIVA) bank index --profile $(PROFILE)

lint: crates ## formatting and lints, as the tests demand them
	cargo fmt --all --check
	cargo clippy --release --locked --all-targets -- -D warnings
	cargo clippy --release --locked $(ENGINES) -- -D warnings

soak: setup-test engines build ## the long tests (half an hour): a thousand sessions and calls, an hour of talk, damaged input, random cases, fuzzing
	cargo clippy --release --locked -p viva --features soak --test soak -- -D warnings
	cargo test --release --locked -p viva --features soak --test soak --test webrtc_leaks -- --nocapture --test-threads=1
	PROPTEST_CASES=1000000 cargo test --release --locked -p viva-actors --lib
	PROPTEST_CASES=200000 cargo test --release --locked -p viva --lib edge::webrtc
	scripts/fuzz.sh

bench: setup-test engines build weights-test ## measure on this machine; results under benches/runs
	cargo bench --locked

clean: ## remove what was built (weights stay)
	cargo clean
	rm -rf $(CACHE)/venv $(CACHE)/agents $(CACHE)/frameworks $(CACHE)/node
