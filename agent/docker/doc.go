// Package docker runs tasks through the Docker Engine API.
//
// Executor implements task.Executor. A task is two containers: the sandbox (package agent/sandbox), which owns the
// network namespace and the host name and comes from an image that is built out of the node's own static binary, and the
// task's container, which joins the sandbox's namespace and carries Docker's own labels (com.docker.swarm.*). The sandbox
// carries meshswarm.* labels only. The task's hosts, hostname and resolv.conf are files that the node writes.
//
// Several nodes may share an engine: everything is created with, and looked for by, the labels of swarm and node.
//
// Truth is what the engine says when it is asked (inspect); that it is worth asking is told by one subscription to the
// engine's events (Run). When that stream ends every waiting controller looks again, so an engine that restarted, and its
// containers with it, is noticed without polling. While the engine is away calls return task.ErrTemporary.
//
// What a task's network is connected to is not known here: Config.Network gets the sandbox's descriptors.
//
// Files: executor.go, events.go and plugins.go (the node), controller.go and status.go (a task's life), sandbox.go and names.go (its
// namespace), spec.go and template.go (from Swarm's spec to the engine's), image.go (images), logs.go, errors.go.
package docker
