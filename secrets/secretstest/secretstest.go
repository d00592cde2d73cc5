package secretstest

import (
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/secrets"
)

// SwarmID is the swarm ID of all identities made here.
const SwarmID = "testswarm"

// Authority makes a fresh authority.
func Authority(t testing.TB) *secrets.Authority {
	t.Helper()
	a, err := secrets.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Identity makes a node's identity that is valid from now for a day.
func Identity(t testing.TB, a *secrets.Authority, nodeID string, role secrets.Role) *secrets.Identity {
	t.Helper()
	return IdentityAt(t, a, nodeID, role, time.Now(), 24*time.Hour)
}

// IdentityAt makes a node's identity as the authority would have signed it at a given time.
func IdentityAt(t testing.TB, a *secrets.Authority, nodeID string, role secrets.Role, at time.Time, validity time.Duration) *secrets.Identity {
	t.Helper()
	key, csr, err := secrets.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, nodeID, SwarmID, role, validity, at)
	if err != nil {
		t.Fatal(err)
	}
	id, err := secrets.NewIdentity(a.CertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
