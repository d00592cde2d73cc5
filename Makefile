# make demo and make test do everything; the other targets are their parts. See README.md and CONTRIBUTING.md.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help setup build images demo test lint sim bench-sched clean

help:
	@echo "make demo    prepare what is missing, start three nodes, deploy the example, show failures and recovery"
	@echo "make test    all tests, the integration tests with a Docker engine among them"
	@echo "make sim     the whole control loop with 1,000 simulated nodes and 20,000 tasks; SIM='-agents 100 -tasks 2000' for others"
	@echo "make build   bin/meshswarm, one static program"
	@echo "make setup   make sure that a Docker engine is reachable (installs and starts one if it may)"
	@echo "make images  make the example images, without a registry"
	@echo "make lint    gofmt, go vet, staticcheck"
	@echo "make bench-sched  the scheduler and swarmkit's on the same loads; BENCH=\"-long -huge\" for the large ones, too"
	@echo "make clean   remove bin"

setup:
	@scripts/setup.sh

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/meshswarm ./cmd/meshswarm

images:
	go run ./integration/images/load

demo:
	scripts/demo.sh

test: build
	scripts/test.sh

SIM ?= -agents 1000 -tasks 20000

sim:
	go test ./integration/sim -run TestControlLoop -count 1 -timeout 60m -v -args -slack 1 -downlink 20 -patience 20m -report RESULTS.md $(SIM)

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

bench-sched:
	go test -run - -bench Schedule -benchtime 3x ./sched
	cd sched/swarmkitbench && go vet ./... && go test -run - -bench . -benchtime 1x -timeout 2h . $(BENCH)

clean:
	rm -rf bin
