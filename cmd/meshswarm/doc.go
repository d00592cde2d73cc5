// Command meshswarm is the command line of meshswarm, a Docker-Swarm-mode orchestrator that needs no privileges on
// the host.
//
// It has three halves that share nothing but the socket:
//
//   - the client: service, node, network, join-token, version. Flags become the types of Docker's Engine API, which
//     github.com/docker/docker/client sends to the node's socket; what comes back is printed in Docker's columns and
//     formats. Words, flags, defaults and messages are those of the docker command, so that habits and scripts carry
//     over. service_spec.go turns flags into a new spec, service_change*.go applies them to an existing one,
//     converge*.go waits until the tasks run, the update has ended or the job is complete. What Docker's API does not
//     have (down, service explain, service rebalance) goes through ask.go.
//   - the node: up (in the foreground or, by spawn.go, in the background), down, leave. daemon.go is the only file
//     that knows package agent.
//   - the lab: whole nodes as processes of one machine, for trying, teaching and testing. It starts the same "up" as
//     a person would and asks the nodes through their sockets.
//
// The hidden command "sandbox" is what runs inside a task's sandbox container; main hands over to agent/sandbox
// before anything else happens.
//
// urfave/cli stops reading flags at the first argument and knows neither "-p8080:80" nor "-dq"; args.go rewrites the
// command line first, so that it reads as Docker's does.
//
// Nothing here runs concurrently but the waiting for signals and, in the lab, for several nodes at once.
package main
