package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshswarm/meshswarm/agent/sandbox"
)

func main() {
	// The sandbox process shares a container with somebody's task and must stay small: nothing runs before it.
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		if err := sandbox.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "meshswarm sandbox:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(os.Args, runNode))
}

// run executes one command line and returns the exit code. node is what up runs.
func run(args []string, node nodeFunc) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process the hard way.
	context.AfterFunc(ctx, stop)

	p := &program{in: os.Stdin, out: os.Stdout, err: os.Stderr, node: node}
	err := p.run(ctx, args)
	if err == nil {
		return 0
	}
	if msg := p.explain(err); msg != "" {
		fmt.Fprintln(os.Stderr, msg)
	}
	var status *statusError
	if errors.As(err, &status) {
		return status.code
	}
	return 1
}
