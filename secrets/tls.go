package secrets

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ServerTLS is for accepting connections. A client certificate is optional, but one that is shown must be of this swarm
// and valid now, or the handshake fails. PeerOf tells afterwards who it was.
func (i *Identity) ServerTLS(alpn ...string) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{i.cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             alpn,
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              i.roots,
		SessionTicketsDisabled: true,
		Time:                   i.now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			peer, err := PeerOf(cs)
			if errors.Is(err, ErrNoCertificate) {
				return nil
			}
			if err != nil {
				return err
			}
			return sameSwarm(peer, i.peer.SwarmID)
		},
	}
}

// ClientTLS is for dialling a manager of this swarm with the node's certificate: the server must show a valid certificate
// of a manager of the same swarm. Its host name does not matter. ServerOf tells afterwards who it is.
func (i *Identity) ClientTLS(alpn ...string) *tls.Config {
	cfg := managerTLS(i.roots, i.now, i.peer.SwarmID, alpn)
	cfg.Certificates = []tls.Certificate{i.cert}
	return cfg
}

// JoinTLS is for dialling a manager before there is an identity: the server must show a valid certificate of a manager
// that the authority rootPEM has signed. rootPEM must have passed VerifyRoot.
func JoinTLS(rootPEM []byte, alpn ...string) (*tls.Config, error) {
	root, err := parseRoot(rootPEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return managerTLS(roots, time.Now, "", alpn), nil
}

// UnverifiedTLS is for one purpose: to fetch the root certificate that VerifyRoot will then judge. Nothing secret may
// be sent over it.
func UnverifiedTLS(alpn ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: alpn, InsecureSkipVerify: true}
}

// managerTLS verifies a manager by chain and role. Go's own verification is off because it insists on a host name;
// VerifyConnection does all of it instead.
func managerTLS(roots *x509.CertPool, now func() time.Time, swarmID string, alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         alpn,
		InsecureSkipVerify: true,
		Time:               now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyManager(cs, roots, now(), swarmID)
		},
	}
}

func verifyManager(cs tls.ConnectionState, roots *x509.CertPool, now time.Time, swarmID string) error {
	if len(cs.PeerCertificates) == 0 {
		return ErrNoCertificate
	}
	leaf := cs.PeerCertificates[0]
	// The chain first, at a time when the certificate is valid, so that a wrong clock is told apart from a wrong swarm.
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: within(now, leaf),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("verify manager: %w: it may not serve", ErrRole)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("verify manager: the swarm's authority certificate is not valid at this time: check this machine's clock: %w", err)
	case err != nil:
		return fmt.Errorf("verify manager: %w: %w", ErrForeign, err)
	}
	peer, err := peerFrom(leaf)
	if err != nil {
		return fmt.Errorf("verify manager: %w", err)
	}
	if peer.Role != RoleManager {
		return fmt.Errorf("verify manager: %w: %s", ErrRole, peer.Role)
	}
	if swarmID != "" {
		if err := sameSwarm(peer, swarmID); err != nil {
			return fmt.Errorf("verify manager: %w", err)
		}
	}
	return checkTime("the manager's certificate", leaf, now)
}

// within is now, or the nearest time at which cert is valid.
func within(now time.Time, cert *x509.Certificate) time.Time {
	switch {
	case now.Before(cert.NotBefore):
		return cert.NotBefore
	case now.After(cert.NotAfter):
		return cert.NotAfter
	}
	return now
}

func sameSwarm(peer Peer, swarmID string) error {
	if peer.SwarmID != swarmID {
		return fmt.Errorf("swarm %s, not %s: %w", peer.SwarmID, swarmID, ErrForeign)
	}
	return nil
}
