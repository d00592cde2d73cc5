package secrets

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxPEM bounds what is parsed: no certificate, key or request of ours is near it.
const maxPEM = 64 << 10

const (
	typeCert = "CERTIFICATE"
	typeKey  = "PRIVATE KEY"
	typeCSR  = "CERTIFICATE REQUEST"
)

// NewKey makes a node's private key (ECDSA P-256, PKCS#8) and the request for its certificate, both PEM. The request
// holds no names: the authority decides them.
func NewKey() (keyPEM, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make node key: %w", err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: typeCSR, Bytes: csr}), nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeKey, Bytes: der}), nil
}

// decodeBlock returns the only PEM block of data, which must have the type kind. Anything else in data is refused.
func decodeBlock(data []byte, kind string) (*pem.Block, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("%d bytes are too many", len(data))
	}
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if block.Type != kind {
		return nil, fmt.Errorf("PEM block is not a %s", kind)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("more than one PEM block")
	}
	return block, nil
}

func parseCert(certPEM []byte) (*x509.Certificate, error) {
	block, err := decodeBlock(certPEM, typeCert)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return cert, nil
}

// parseKey reads a P-256 key and the headers of its PEM block. Errors never hold key material.
func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, map[string]string, error) {
	block, err := decodeBlock(keyPEM, typeKey)
	if err != nil {
		return nil, nil, fmt.Errorf("parse key: %w", err)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, errors.New("parse key: not a PKCS#8 key")
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, nil, errors.New("parse key: not an ECDSA P-256 key")
	}
	return key, block.Headers, nil
}
