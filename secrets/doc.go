// Package secrets holds what makes a node trusted and what keeps things unreadable: the swarm's certificate authority,
// node certificates, join tokens, TLS configurations and the sealing of data at rest.
//
//	Authority   the root key of a swarm; signs node certificates (only managers have it)
//	Token       SWMTKN-1-<digest of the root certificate>-<secret>: pins the authority before anything is sent to it
//	Identity    a node's certificate, key and root, in memory and on disk, and the TLS configurations made of them
//	Peer        who is on the other side of a connection, from its verified certificate
//	Sealer      XChaCha20-Poly1305 for whatever a manager writes to disk
//
// The rules are Docker Swarm's (swarmkit's ca package): ECDSA P-256, authority "swarm-ca" for 20 years, node certificates
// with the node ID as common name, the role as organizational unit and the swarm ID as organization. A name never
// authorises anything: no certificate holds host names, no check looks at one. TLS is 1.3 only, without resumption.
//
// What is stricter than in Swarm: a worker's certificate is good for clients only, so that a worker can never pose as a
// manager; and the names in a certificate request are ignored altogether.
//
// On disk (a folder with mode 0700, files with 0600):
//
//	swarm-root-ca.crt   the authority's certificate
//	swarm-node.crt      the node's certificate
//	swarm-node.key      its key, PKCS#8; a PEM header carries the storage key that seals the node's data
//	swarm-node.key.next only during a change of identity: see Identity.Save
//
// Everything here is safe for concurrent use once made. Nothing here runs, listens or dials. The room knows nothing of the
// cluster's state: whether a node is still a member is the business of whoever accepts its connection.
package secrets
