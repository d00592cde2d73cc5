package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

const (
	// authorityValidity is the life of a root certificate.
	authorityValidity = 20 * 365 * 24 * time.Hour
	// backdate lets a node whose clock is a little behind accept a fresh certificate.
	backdate = time.Hour
	// DefaultValidity is the life of a node certificate where the swarm's spec gives none.
	DefaultValidity = 90 * 24 * time.Hour
)

// Authority is a swarm's certificate authority: the root certificate and its key.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a fresh authority, valid from an hour ago.
func NewAuthority() (*Authority, error) { return newAuthority(time.Now()) }

func newAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "swarm-ca"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read authority back: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// ParseAuthority reads what CertPEM and KeyPEM gave.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := parseRoot(certPEM)
	if err != nil {
		return nil, err
	}
	key, _, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("read authority: key does not belong to the certificate")
	}
	return &Authority{cert: cert, key: key}, nil
}

// parseRoot reads a self-signed authority certificate. It does not look at the time.
func parseRoot(certPEM []byte) (*x509.Certificate, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	if !cert.IsCA || !cert.BasicConstraintsValid {
		return nil, fmt.Errorf("read authority: certificate is not an authority's")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("read authority: not self-signed: %w", err)
	}
	return cert, nil
}

// CertPEM is the root certificate.
func (a *Authority) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typeCert, Bytes: a.cert.Raw})
}

// KeyPEM is the root key, PKCS#8. It belongs into the managers' sealed storage only.
func (a *Authority) KeyPEM() ([]byte, error) { return encodeKey(a.key) }

// Digest is the SHA-256 of the root certificate's DER form as 50 characters of base36: the pin in every join token.
func (a *Authority) Digest() string { return digestOf(a.cert) }

func digestOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return base36(sum[:], digestLen)
}

// Sign issues a node certificate for the key of a request: common name nodeID, organization swarmID, organizational unit
// role, valid from an hour before now until now plus validity (but not longer than the authority). All names in the request
// are ignored. Errors about the request are ErrRequest.
func (a *Authority) Sign(csrPEM []byte, nodeID, swarmID string, role Role, validity time.Duration, now time.Time) ([]byte, error) {
	public, err := requestKey(csrPEM)
	if err != nil {
		return nil, err
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	switch {
	case !validID.MatchString(nodeID), !validID.MatchString(swarmID):
		return nil, fmt.Errorf("sign certificate: node and swarm ID must be lower case letters and digits")
	case role == RoleManager:
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	case role != RoleWorker:
		return nil, fmt.Errorf("sign certificate: unknown role %q", role)
	}
	if validity <= 0 {
		return nil, fmt.Errorf("sign certificate: validity of %s", validity)
	}
	if err := checkTime("the swarm's authority certificate", a.cert, now); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: nodeID, Organization: []string{swarmID}, OrganizationalUnit: []string{string(role)}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(now.Add(validity), a.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeCert, Bytes: der}), nil
}

// requestKey returns the public key of a request that its holder has signed.
func requestKey(csrPEM []byte) (*ecdsa.PublicKey, error) {
	block, err := decodeBlock(csrPEM, typeCSR)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: key is not ECDSA P-256", ErrRequest)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return public, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
