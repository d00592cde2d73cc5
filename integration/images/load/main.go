// Command load makes the example images and loads them into the engine of DOCKER_HOST.
//
//	go run ./integration/images/load [-dir BUILD-FOLDER]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/docker/docker/client"
	"github.com/meshswarm/meshswarm/integration/images"
)

func main() {
	dir := flag.String("dir", "bin/images", "build folder")
	source := flag.String("source", ".", "the repository's root")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *dir, *source); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, source string) error {
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer engine.Close()
	builder := images.Builder{Dir: dir, Source: source, Out: os.Stderr}
	return builder.Ensure(ctx, engine)
}
