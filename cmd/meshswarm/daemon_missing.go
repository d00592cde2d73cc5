//go:build !meshswarm_agent

package main

import (
	"context"
	"errors"
	"log/slog"
)

// nodeInfo is what the node says about itself once it is ready.
type nodeInfo struct {
	NodeID, SwarmID       string
	Manager               bool
	Socket, AdvertiseAddr string
	Created, Resumed      bool
}

func runNode(context.Context, *upOptions, *slog.Logger, func(nodeInfo)) error {
	return errors.New("this build has no node in it: build with -tags meshswarm_agent")
}
