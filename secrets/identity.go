package secrets

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// storageHeader is the PEM header of the key file that holds the storage key, base64.
const storageHeader = "meshswarm-storage-key"

// Identity is a node's place in a swarm: its certificate, its key and the root both sides trust. It does not change;
// a renewed certificate makes a new one.
type Identity struct {
	peer    Peer
	leaf    *x509.Certificate
	root    *x509.Certificate
	cert    tls.Certificate
	roots   *x509.CertPool
	rootPEM []byte
	certPEM []byte
	keyPEM  []byte // with the storage key in its header
	storage []byte
	now     func() time.Time
}

// NewIdentity puts a node's identity together from PEM texts and checks that they belong together: the key to the
// certificate, the certificate to the root. It does not look at the time (CheckTime does). A storage key is made
// when keyPEM carries none.
func NewIdentity(rootPEM, certPEM, keyPEM []byte) (*Identity, error) {
	root, err := parseRoot(rootPEM)
	if err != nil {
		return nil, err
	}
	leaf, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read node certificate: %w", err)
	}
	if err := leaf.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("read node certificate: %w: %w", ErrForeign, err)
	}
	peer, err := peerFrom(leaf)
	if err != nil {
		return nil, err
	}
	key, headers, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errKeyMismatch
	}
	storage, err := storageKey(headers)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	block.Headers = map[string]string{storageHeader: base64.StdEncoding.EncodeToString(storage)}
	i := &Identity{
		peer: peer, leaf: leaf, root: root, roots: x509.NewCertPool(),
		cert:    tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		rootPEM: bytes.Clone(rootPEM), certPEM: bytes.Clone(certPEM), keyPEM: pem.EncodeToMemory(block),
		storage: storage, now: time.Now,
	}
	i.roots.AddCert(root)
	return i, nil
}

// errKeyMismatch: certificate and key are of different changes of the identity.
var errKeyMismatch = errors.New("node key does not belong to the node certificate")

// storageKey reads the storage key out of the headers of a key file, or makes one.
func storageKey(headers map[string]string) ([]byte, error) {
	text, ok := headers[storageHeader]
	if !ok {
		return NewSealKey()
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != SealKeySize {
		return nil, errors.New("read node key: the storage key in its header is damaged")
	}
	return key, nil
}

// Renewed is this identity with a new certificate and key: same node, same swarm, same root, same storage key.
func (i *Identity) Renewed(certPEM, keyPEM []byte) (*Identity, error) {
	block, err := decodeBlock(keyPEM, typeKey)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	block.Headers = map[string]string{storageHeader: base64.StdEncoding.EncodeToString(i.storage)}
	next, err := NewIdentity(i.rootPEM, certPEM, pem.EncodeToMemory(block))
	if err != nil {
		return nil, err
	}
	if next.peer.NodeID != i.peer.NodeID || next.peer.SwarmID != i.peer.SwarmID {
		return nil, fmt.Errorf("renew identity: certificate is for another node: %w", ErrForeign)
	}
	return next, nil
}

// NodeID is the node's ID.
func (i *Identity) NodeID() string { return i.peer.NodeID }

// SwarmID is the swarm's ID.
func (i *Identity) SwarmID() string { return i.peer.SwarmID }

// Role is what the certificate says.
func (i *Identity) Role() Role { return i.peer.Role }

// Expiry is the end of the node's certificate, Issued its beginning (without the hour that it is dated back).
func (i *Identity) Expiry() time.Time { return i.peer.Expiry }

// Issued is when the certificate was made.
func (i *Identity) Issued() time.Time { return i.leaf.NotBefore.Add(backdate) }

// RootPEM is the authority's certificate.
func (i *Identity) RootPEM() []byte { return bytes.Clone(i.rootPEM) }

// Peer is how others see this node.
func (i *Identity) Peer() Peer { return i.peer }

// StorageKey is the key that seals this node's data (NewSealer). It is kept as a header of the key file and
// survives renewals.
func (i *Identity) StorageKey() []byte { return bytes.Clone(i.storage) }

// CheckTime returns a *ClockError when the node's own certificate is not valid at now.
func (i *Identity) CheckTime(now time.Time) error {
	if err := checkTime("the swarm's authority certificate", i.root, now); err != nil {
		return err
	}
	return checkTime("this node's certificate", i.leaf, now)
}

// String names the node and hides everything else from logs.
func (i *Identity) String() string {
	return fmt.Sprintf("%s %s of swarm %s", i.peer.Role, i.peer.NodeID, i.peer.SwarmID)
}

// GoString hides the keys too.
func (i *Identity) GoString() string { return i.String() }
