# Bare make lists the verbs. Each does its own set-up and says what it installs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build cuda test race lint fmt fuzz bench generate quickstart clean

GO_FILES = $(shell git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$$')
C_FILES  = $(shell git ls-files -co --exclude-standard '*.c' '*.h' '*.cpp' '*.cu' '*.cuh')

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/coordinator (without cgo) and bin/worker
	@tools/setup.sh build
	CGO_ENABLED=0 go build -trimpath -o bin/coordinator ./cmd/coordinator
	CGO_ENABLED=1 go build -trimpath -o bin/worker ./cmd/worker

cuda: ## bin/libzerofleet_cuda.so, with nvcc: what workers need to compute on GPUs
	@tools/cuda.sh

test: build ## every test, with the race detector; needs no Python, ends with what was skipped
	@tools/setup.sh test
	@go run ./tools/testsum -race -timeout 20m ./...

race: build ## every test three times in random order, with the race detector
	@tools/setup.sh test
	@go run ./tools/testsum -race -count 3 -shuffle on -timeout 60m ./...

lint: ## gofmt, go vet, golangci-lint, clang-format, buf
	@tools/setup.sh lint
	@unformatted=$$(gofmt -l $(GO_FILES)); if [ -n "$$unformatted" ]; then echo "not gofmt-ed: $$unformatted"; exit 1; fi
	go vet ./...
	.tools/golangci-lint run ./...
	@if [ -n "$(C_FILES)" ]; then echo clang-format --dry-run -Werror; clang-format --dry-run -Werror $(C_FILES); fi
	.tools/buf lint

fmt: ## format Go and C in place
	@tools/setup.sh lint
	gofmt -w $(GO_FILES)
	clang-format -i $(C_FILES)

fuzz: ## every fuzz target for FUZZTIME each (default 1m)
	@tools/setup.sh build
	@tools/fuzz.sh

bench: build ## every Go benchmark
	go test -run '^$$' -bench . -benchmem ./...

generate: ## generated code and pages: protobuf, docs/job.md
	@tools/setup.sh generate
	go generate ./...

quickstart: build ## fine-tune SmolLM2-135M on the Go standard library's documentation, with two workers
	@tools/setup.sh quickstart
	@tools/quickstart.sh

clean: ## remove what was built; what was downloaded (.cache, .venv) and runs/ stay
	rm -rf bin .tools
	go clean -testcache
