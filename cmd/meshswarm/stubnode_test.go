package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
)

// stubNode stands in for the node under up, down and the lab: it serves what those commands ask, and no more. $STUB_FAIL
// makes the node of that host name fail to start. $STUB_NODES are the host names that its node list shows.
func stubNode(ctx context.Context, o *upOptions, log *slog.Logger, ready func(nodeInfo)) error {
	if o.hostname != "" && o.hostname == os.Getenv("STUB_FAIL") {
		return errors.New("the engine is gone: start it")
	}
	cmdline, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		return err
	}
	log.Info("stub starts", "join", o.join, "token", o.token, "token_visible", o.token != "" && strings.Contains(string(cmdline), o.token), "has", resourceList(o.has))
	os.Remove(o.socket)
	l, err := net.Listen("unix", o.socket)
	if err != nil {
		return err
	}
	ctx, down := context.WithCancel(ctx)
	defer down()
	mux := http.NewServeMux()
	answer := func(pattern string, body any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(body) })
	}
	type object = map[string]any
	var nodes []object
	for name := range strings.SplitSeq(os.Getenv("STUB_NODES"), ",") {
		nodes = append(nodes, object{"ID": name, "Description": object{"Hostname": name}, "Status": object{"State": "ready"}})
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.51") })
	answer("/v1.51/swarm", object{"JoinTokens": object{"Worker": "TOKEN-W", "Manager": "TOKEN-M"}})
	answer("/v1.51/info", object{"Swarm": object{"NodeID": "self"}})
	answer("/v1.51/nodes", nodes)
	answer("/v1.51/nodes/self", object{"ID": "self", "ManagerStatus": object{"Addr": o.listenAddr}})
	mux.HandleFunc("POST /meshswarm/down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		down()
	})
	server := &http.Server{Handler: mux}
	stop := context.AfterFunc(ctx, func() { server.Shutdown(context.Background()) })
	defer stop()
	ready(nodeInfo{NodeID: "self", SwarmID: "swarm", Manager: true, Socket: o.socket, AdvertiseAddr: o.listenAddr, Created: o.join == "", Resumed: false})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
