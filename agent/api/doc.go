// Package api is the HTTP that a node's socket speaks: the Docker Engine API, versions 1.24 to 1.51, so that the
// unmodified docker command line, its client library and every tool that talks to a Swarm manager work against it.
//
// Four kinds of requests arrive at one router (router.go):
//
//   - Swarm routes (/swarm, /services, /nodes, /tasks, /secrets, /configs): Docker's own swarm router over Backend, which
//     reads views of the cluster's store and proposes batches. They are answered by the leader; any other manager forwards
//     them to it (forward.go) and, after a change, waits until its own store has caught up, so that a user reads what he
//     wrote. A worker answers with Docker's own 503.
//     Routes of our own about services (explain.go) are served the same way.
//   - Networks (networks.go): the swarm's overlay networks first, then those of the node's engine.
//   - The system's face (system.go): _ping, version, info; the engine's own answers with the swarm's part put in.
//   - All the rest is proxied to the node's container engine (proxy.go), connection upgrades included, with the version
//     prefix lowered to what the engine speaks. Sandbox containers are hidden from container lists.
//
// A spec is judged before anything else happens (defaults.go, modes.go, validate.go and what that calls): with the rules and
// texts of Swarm's control API, and refusing what could never work or would silently be of no effect.
//
// What meshswarm does not have answers 501 with a sentence that names it (unsupported.go), never a wrong success.
// Errors carry their class as Docker's do and are mapped to a status by Docker's httpstatus.
//
// Server.Handler is the same for requests that another manager forwards over mTLS: swarm routes only, never forwarded a
// second time. Who may call it is decided by agent/rpc.
//
// Concurrency: one goroutine per request (net/http), one per task in a log stream, all ended by Run's context. Everything
// exported is safe for concurrent use. Nothing here keeps state of its own but the engine's last known API version.
//
// The package does not decide what runs where (sched), does not move nodes in or out of the swarm (package agent does,
// behind Local) and does not pull logs (agent/dispatch and agent/rpc do, behind Cluster).
package api
