// Package sandbox owns a task's network namespace.
//
// Each task gets a sandbox container without a network of its own. Its process, the hidden command "meshswarm sandbox"
// (Main), reads a Spec from a folder it shares with the node's agent, creates one device per network (a TUN, or a veth
// pair with a packet socket where TUN is closed), sets addresses, routes and MTU, opens the DNS sockets at 127.0.0.11:53,
// gives up every capability, and then waits: whoever asks at its unix socket in that folder, with the folder owner's user
// ID, gets the descriptors (Ask) or the list of established TCP sockets (Sockets).
//
// The agent therefore needs no privilege and never enters a namespace, and an agent that was killed or replaced asks for
// the same descriptors again: the task's interfaces and connections never went away.
//
// What it does not do: it reads no packet, answers no DNS query, and knows no container engine. It serves one request at
// a time and has nothing running while idle.
//
// Main runs in two stages of the same binary. Stage one sets up; stage two ("keep") is a fresh image of the process,
// executed after the last privilege is gone, so that neither memory nor threads of the setup remain.
//
// Files: spec.go (what to build), setup.go, tun.go, veth.go, dns.go (building it), drop.go (privileges), keep.go
// (serving), protocol.go (the bytes on the socket), client.go (the agent's side). DESIGN.md has the handshake and why.
package sandbox
