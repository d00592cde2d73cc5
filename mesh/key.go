package mesh

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/curve25519"
)

// Key is a private key (Curve25519). It prints and logs as nothing but a placeholder.
type Key [32]byte

// PublicKey names a peer.
type PublicKey [32]byte

var errKey = errors.New("a WireGuard key is 32 bytes in base64")

// NewKey makes a private key.
func NewKey() (Key, error) {
	var k Key
	if _, err := rand.Read(k[:]); err != nil {
		return Key{}, fmt.Errorf("make WireGuard key: %w", err)
	}
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k, nil
}

// Public returns the public key.
func (k Key) Public() PublicKey {
	b, err := curve25519.X25519(k[:], curve25519.Basepoint)
	if err != nil {
		return PublicKey{} // only for a low-order base point
	}
	return PublicKey(b)
}

// String hides the key.
func (k Key) String() string { return "(private key)" }

// GoString hides the key.
func (k Key) GoString() string { return k.String() }

// Format hides the key from every verb of fmt.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue hides the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText refuses: a private key is stored by its bytes, on purpose.
func (k Key) MarshalText() ([]byte, error) { return nil, errors.New("private keys are not marshalled") }

func (k Key) hex() string { return hex.EncodeToString(k[:]) }

// String returns the key in base64, as WireGuard's tools do.
func (p PublicKey) String() string { return base64.StdEncoding.EncodeToString(p[:]) }

// MarshalText returns String.
func (p PublicKey) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePublicKey.
func (p *PublicKey) UnmarshalText(b []byte) error {
	k, err := ParsePublicKey(string(b))
	*p = k
	return err
}

// ParsePublicKey parses a public key in base64.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != 32 {
		return PublicKey{}, errKey
	}
	return PublicKey(b), nil
}

func (p PublicKey) hex() string { return hex.EncodeToString(p[:]) }
