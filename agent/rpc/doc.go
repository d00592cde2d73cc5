// Package rpc is the control port: how nodes talk to managers and managers to each other.
//
// One TCP port (2377) speaks TLS 1.3 with the node certificates of package secrets and is split by ALPN:
//
//	meshswarm-raft  raw streams for raft (RaftStream), managers only
//	h2              HTTP/2: the routes that the owner of the Server registers with Handle
//
// Every route names the Access it needs. The certificate tells who the peer is; the hook ServerConfig.Allowed, asked for
// every request and every raft stream, tells whether that node is still a member. Server.Cut closes whatever a removed
// node still has open. A handler reads its caller with PeerFrom.
//
// Limits: handshakes have 5 s, connections are counted in total and, while they have shown no certificate, per source
// address; headers, bodies and messages have maximum sizes; a connection ends with the certificate that opened it. What
// is not TLS on the port is closed with one line at debug level.
//
// Client calls a manager at an address with the node's identity, which may be replaced at any time (a renewal): new
// connections use the newest. A dead manager is noticed within two seconds by HTTP/2 pings. Join is the way in for a node
// without an identity: it fetches the authority's certificate, checks it against the join token's pin, and only then
// sends the token.
//
// Long conversations (sessions, and what managers ask nodes to send) are Streams: full-duplex HTTP/2 requests that carry
// JSON messages, each behind its length in four bytes. An empty message is a sign of life.
//
// Concurrency: Server.Run owns the accept loop, one goroutine per handshake, and those of net/http, and returns when all
// handlers have returned. Client owns no goroutine of its own.
//
// This room knows neither the store nor raft: what is said over the routes is in package dispatch.
package rpc
