package secrets

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Role is what a certificate lets its holder do. It is the organizational unit of the certificate.
type Role string

// The roles of a node.
const (
	RoleManager Role = "swarm-manager"
	RoleWorker  Role = "swarm-worker"
)

// Errors of this room. Their texts are meant for the person at the command line.
var (
	// ErrToken: the text is not a join token.
	ErrToken = errors.New("not a join token (want SWMTKN-1-<50 characters>-<25 characters>, as printed by `meshswarm join-token worker`)")
	// ErrForeign: a certificate that the swarm's authority did not sign, or one of another swarm.
	ErrForeign = errors.New("certificate belongs to another swarm")
	// ErrPin: the manager's authority is not the one that the join token names.
	ErrPin = errors.New("the manager's authority is not the one that the join token names: the token is of another swarm, or somebody is in between")
	// ErrNoCertificate: the other side showed no certificate.
	ErrNoCertificate = errors.New("no certificate")
	// ErrRequest: a certificate request that is not acceptable.
	ErrRequest = errors.New("bad certificate request")
	// ErrRole: a valid certificate with the wrong role.
	ErrRole = errors.New("certificate has the wrong role")
)

// ClockError says that a certificate is not valid at this time, which most often means that a clock is wrong.
type ClockError struct {
	What                     string // whose certificate
	NotBefore, NotAfter, Now time.Time
}

// Error names both times.
func (e *ClockError) Error() string {
	const form = time.RFC3339
	now := e.Now.UTC().Format(form)
	if e.Now.Before(e.NotBefore) {
		return fmt.Sprintf("%s is not valid before %s and it is %s here: check this machine's clock", e.What, e.NotBefore.UTC().Format(form), now)
	}
	return fmt.Sprintf("%s expired at %s and it is %s here: check this machine's clock", e.What, e.NotAfter.UTC().Format(form), now)
}

// checkTime returns a *ClockError when cert is not valid at now.
func checkTime(what string, cert *x509.Certificate, now time.Time) error {
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return &ClockError{What: what, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Now: now}
	}
	return nil
}

// Peer is the other side of a connection, as its verified certificate tells.
type Peer struct {
	NodeID  string
	SwarmID string
	Role    Role
	Expiry  time.Time
}

// PeerOf reads the peer of a connection that was accepted with Identity.ServerTLS. It returns ErrNoCertificate when the
// client showed none; a certificate that was not verified never yields a Peer.
func PeerOf(cs tls.ConnectionState) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	if len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return Peer{}, fmt.Errorf("read peer: %w", ErrForeign)
	}
	return peerFrom(cs.VerifiedChains[0][0])
}

// ServerOf reads the manager at the other side of a connection that was dialled with Identity.ClientTLS or JoinTLS, whose
// handshake has verified it. It must not be used with any other configuration.
func ServerOf(cs tls.ConnectionState) (Peer, error) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	return peerFrom(cs.PeerCertificates[0])
}

// validID is what node and swarm IDs may look like (state.NewID makes 25 characters of base36).
var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// peerFrom reads the names of a verified certificate.
func peerFrom(cert *x509.Certificate) (Peer, error) {
	s := cert.Subject
	if len(s.OrganizationalUnit) != 1 || len(s.Organization) != 1 || !validID.MatchString(s.CommonName) || !validID.MatchString(s.Organization[0]) {
		return Peer{}, fmt.Errorf("read certificate: %w", ErrForeign)
	}
	role := Role(s.OrganizationalUnit[0])
	if role != RoleManager && role != RoleWorker {
		return Peer{}, fmt.Errorf("read certificate: unknown role: %w", ErrRole)
	}
	return Peer{NodeID: s.CommonName, SwarmID: s.Organization[0], Role: role, Expiry: cert.NotAfter}, nil
}
