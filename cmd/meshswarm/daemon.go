package main

import (
	"context"
	"log/slog"

	"github.com/docker/cli/opts"
	"github.com/meshswarm/meshswarm/agent"
	"github.com/prometheus/client_golang/prometheus"
)

// nodeInfo is what the node says about itself once it is ready.
type nodeInfo = agent.Info

// runNode is the only place where the command line meets the node.
func runNode(ctx context.Context, o *upOptions, log *slog.Logger, ready func(nodeInfo)) error {
	node, err := agent.New(agent.Config{
		DataDir:          o.dataDir,
		Socket:           o.socket,
		ListenAddr:       o.listenAddr,
		AdvertiseAddr:    o.advertiseAddr,
		DataPathPort:     uint16(o.dataPathPort),
		PublishAddr:      o.publishAddr,
		DockerHost:       o.dockerHost,
		Hostname:         o.hostname,
		Labels:           opts.ConvertKVStringsToMap(o.labels.GetSlice()),
		GenericResources: o.has,
		Join:             o.join,
		Token:            o.token,
		DefaultAddrPool:  o.addrPools.GetSlice(),
		TaskDevice:       o.taskDevice,
		Version:          buildVersion(),
		Logger:           log,
		Registry:         prometheus.NewRegistry(),
		Ready:            ready,
	})
	if err != nil {
		return err
	}
	return node.Run(ctx)
}
