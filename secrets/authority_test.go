package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"
)

func mustAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustIdentity(t testing.TB, a *Authority, node string, role Role, at time.Time, validity time.Duration) *Identity {
	t.Helper()
	key, csr, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, node, "swarm1", role, validity, at)
	if err != nil {
		t.Fatal(err)
	}
	i, err := NewIdentity(a.CertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestAuthorityRoundTrip(t *testing.T) {
	a := mustAuthority(t)
	key, err := a.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseAuthority(a.CertPEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest() != b.Digest() || len(a.Digest()) != digestLen {
		t.Errorf("digests %q and %q", a.Digest(), b.Digest())
	}
	if _, err := ParseAuthority(mustAuthority(t).CertPEM(), key); err == nil {
		t.Error("another authority's key was accepted")
	}
	if life := a.cert.NotAfter.Sub(a.cert.NotBefore); life < 19*365*24*time.Hour {
		t.Errorf("authority lives %s", life)
	}
}

func TestSignIgnoresNamesOfRequest(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "somebody/../*", Organization: []string{"other"}, OrganizationalUnit: []string{string(RoleManager)}},
		DNSNames: []string{"example.com"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	certPEM, err := mustAuthority(t).Sign(pem.EncodeToMemory(&pem.Block{Type: typeCSR, Bytes: der}), "node1", "swarm1", RoleWorker, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := peerFrom(cert)
	if err != nil {
		t.Fatal(err)
	}
	if peer.NodeID != "node1" || peer.SwarmID != "swarm1" || peer.Role != RoleWorker || len(cert.DNSNames) != 0 || cert.IsCA {
		t.Errorf("certificate took names from the request: %+v %v", peer, cert.DNSNames)
	}
	if d := now.Sub(cert.NotBefore); d < time.Hour-time.Minute || d > time.Hour+time.Minute {
		t.Errorf("backdated by %s", d)
	}
}

func TestSignRefuses(t *testing.T) {
	a := mustAuthority(t)
	_, good, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	bent := []byte(string(good))
	block, _ := pem.Decode(bent)
	block.Bytes[len(block.Bytes)-1] ^= 1
	tests := []struct {
		name        string
		csr         []byte
		node, swarm string
		role        Role
		validity    time.Duration
		now         time.Time
		want        string
	}{
		{"empty", nil, "n", "s", RoleWorker, time.Hour, time.Now(), "PEM"},
		{"not a request", a.CertPEM(), "n", "s", RoleWorker, time.Hour, time.Now(), "PEM block"},
		{"two blocks", append(good, good...), "n", "s", RoleWorker, time.Hour, time.Now(), "more than one"},
		{"huge", make([]byte, maxPEM+1), "n", "s", RoleWorker, time.Hour, time.Now(), "too many"},
		{"rsa", pem.EncodeToMemory(&pem.Block{Type: typeCSR, Bytes: rsaDER}), "n", "s", RoleWorker, time.Hour, time.Now(), "P-256"},
		{"not its holder's", pem.EncodeToMemory(block), "n", "s", RoleWorker, time.Hour, time.Now(), "request"},
		{"node ID", good, "a b", "s", RoleWorker, time.Hour, time.Now(), "ID"},
		{"swarm ID", good, "n", "", RoleWorker, time.Hour, time.Now(), "ID"},
		{"role", good, "n", "s", "root", time.Hour, time.Now(), "role"},
		{"validity", good, "n", "s", RoleWorker, 0, time.Now(), "validity"},
		{"before the authority", good, "n", "s", RoleWorker, time.Hour, time.Now().Add(-48 * time.Hour), "clock"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := a.Sign(tt.csr, tt.node, tt.swarm, tt.role, tt.validity, tt.now); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func FuzzSign(f *testing.F) {
	a := mustAuthority(f)
	_, csr, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	block, _ := pem.Decode(csr)
	f.Add(block.Bytes, "node1")
	f.Add([]byte("garbage"), "a/b")
	f.Add([]byte{0x30, 0x82, 0xff, 0xff}, "*\x00")
	f.Fuzz(func(t *testing.T, der []byte, node string) {
		certPEM, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: typeCSR, Bytes: der}), node, "swarm1", RoleWorker, time.Hour, time.Now())
		if err != nil {
			return
		}
		cert, err := parseCert(certPEM)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := peerFrom(cert)
		if err != nil || peer.NodeID != node || peer.Role != RoleWorker || cert.IsCA {
			t.Fatalf("signed %+v, %v", peer, err)
		}
	})
}

func TestIdentityRefusesForeign(t *testing.T) {
	a, b := mustAuthority(t), mustAuthority(t)
	key, csr, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, "node1", "swarm1", RoleWorker, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewIdentity(b.CertPEM(), cert, key); !errors.Is(err, ErrForeign) {
		t.Errorf("foreign certificate: %v", err)
	}
	other, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewIdentity(a.CertPEM(), cert, other); !errors.Is(err, errKeyMismatch) {
		t.Errorf("other key: %v", err)
	}
}
