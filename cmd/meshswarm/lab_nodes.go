package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"github.com/meshswarm/meshswarm/agent"
)

const (
	labStartTimeout = 60 * time.Second
	labReadyTimeout = 60 * time.Second
	labStopTimeout  = 60 * time.Second
)

// start starts one node and waits until it is ready. from is how it joins; nil for the first node and for nodes that
// know their swarm already.
func (l *lab) start(ctx context.Context, n *labNode, from *join) error {
	if n.Process.alive() {
		return nil
	}
	o := n.options(&l.labState)
	if from != nil && !n.Joined {
		o.join, o.token = from.addr, from.token(n.role())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, labStartTimeout, fmt.Errorf("not ready after %v", labStartTimeout))
	defer cancel()
	node, err := spawn(ctx, o, n.logPath())
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	if n.Process, err = findProcess(node.pid); err != nil {
		return fmt.Errorf("start %s: it ended right after its start; its log is %s", n.Name, n.logPath())
	}
	n.Joined = true
	if node.info.Problem != "" {
		return fmt.Errorf("%s runs, but %s", n.Name, node.info.Problem)
	}
	return nil
}

// startAll starts the first manager, then the other managers one after another, then all workers at once.
func (l *lab) startAll(ctx context.Context) error {
	defer l.save()
	// Nodes that know their swarm may need each other to get ready (a majority of managers).
	if err := l.each(func(n *labNode) error {
		if !n.Joined {
			return nil
		}
		return l.start(ctx, n, nil)
	}); err != nil {
		return err
	}
	first := l.Nodes[0]
	if err := l.start(ctx, first, nil); err != nil {
		return err
	}
	node, err := dialHost(first.host())
	if err != nil {
		return err
	}
	defer node.Close()
	from, err := readJoin(ctx, node)
	if err != nil {
		return fmt.Errorf("read join tokens of %s: %w", first.Name, err)
	}
	for _, n := range l.Nodes {
		if n.Manager {
			if err := l.start(ctx, n, &from); err != nil {
				return err
			}
		}
	}
	return l.each(func(n *labNode) error { return l.start(ctx, n, &from) })
}

// each runs do for all nodes at once and waits for all, so that one failure leaves nothing half done.
func (l *lab) each(do func(n *labNode) error) error {
	failures := make([]error, len(l.Nodes))
	var all sync.WaitGroup
	for i, n := range l.Nodes {
		all.Go(func() { failures[i] = do(n) })
	}
	all.Wait()
	return errors.Join(failures...)
}

// waitReady returns when the first node sees all nodes ready.
func (l *lab) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, labReadyTimeout)
	defer cancel()
	node, err := dialHost(l.Nodes[0].host())
	if err != nil {
		return err
	}
	defer node.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := node.NodeList(ctx, swarm.NodeListOptions{})
		if err == nil {
			err = l.notReady(nodes)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the nodes to be ready: %w; their logs are in %s", err, filepath.Join(l.dir, "node*", "log"))
		case <-tick.C:
		}
	}
}

func (l *lab) notReady(nodes []swarm.Node) error {
	states := map[string]swarm.NodeState{}
	for _, n := range nodes {
		if states[n.Description.Hostname] != swarm.NodeStateReady {
			states[n.Description.Hostname] = n.Status.State
		}
	}
	for _, n := range l.Nodes {
		switch state, known := states[n.Name]; {
		case !known:
			return fmt.Errorf("%s has not joined", n.Name)
		case state != swarm.NodeStateReady:
			return fmt.Errorf("%s is %s", n.Name, state)
		}
	}
	return nil
}

// kill ends a node's process without a word to it.
func (l *lab) kill(ctx context.Context, n *labNode) error {
	if err := n.Process.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: it does not run", n.Name)
	}
	return n.Process.wait(ctx)
}

// stopAll stops all nodes that run, with their tasks.
func (l *lab) stopAll(ctx context.Context) error {
	return l.each(func(n *labNode) error { return l.stop(ctx, n) })
}

func (l *lab) stop(ctx context.Context, n *labNode) error {
	if !n.Process.alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, labStopTimeout)
	defer cancel()
	node, err := dialHost(n.host())
	if err != nil {
		return err
	}
	defer node.Close()
	if err := requestDown(ctx, node); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	if err := n.Process.wait(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	return nil
}

// forget removes what the nodes have in the engine, their folders and the lab's file. Nodes that still run lose their
// process first.
func (l *lab) forget(ctx context.Context, force bool) error {
	var failures []error
	for _, n := range l.Nodes {
		if n.Process.alive() {
			failures = append(failures, l.kill(ctx, n))
		}
		if err := agent.Purge(ctx, n.options(&l.labState).dataDir, l.DockerHost); err != nil && !force {
			failures = append(failures, fmt.Errorf("clear up after %s: %w", n.Name, err))
			continue
		}
		failures = append(failures, os.RemoveAll(n.dir))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	l.Nodes = nil
	if err := os.Remove(l.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(filepath.Join(l.dir, "lab.lock")); err != nil {
		return err
	}
	// A folder that holds something else stays.
	if err := os.Remove(l.dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}
