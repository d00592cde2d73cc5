package secrets

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// SealKeySize is the length of a sealing key in bytes.
const SealKeySize = chacha20poly1305.KeySize

// ErrSealed: data that does not open: another key, another place (ad), or damage.
var ErrSealed = errors.New("sealed data does not open: it is damaged or was sealed with another key")

// Sealer encrypts and authenticates data at rest with XChaCha20-Poly1305 and a random 24-byte nonce per call, which
// stays safe for any number of messages a node will ever write. Safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

// NewSealKey makes a sealing key.
func NewSealKey() ([]byte, error) {
	key := make([]byte, SealKeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make sealing key: %w", err)
	}
	return key, nil
}

// NewSealer returns a Sealer for a key of SealKeySize bytes.
func NewSealer(key []byte) (*Sealer, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal encrypts plain. ad names the place that the data belongs to: it is not stored, and must be the same on Open.
// The result is 40 bytes longer than plain.
func (s *Sealer) Seal(ad, plain []byte) []byte {
	out := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	if _, err := rand.Read(out); err != nil {
		panic(err) // crypto/rand.Read never fails; without randomness nothing may be written
	}
	return s.aead.Seal(out, out, plain, ad)
}

// Open decrypts what Seal made, or returns ErrSealed.
func (s *Sealer) Open(ad, sealed []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return nil, ErrSealed
	}
	nonce, box := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plain, err := s.aead.Open(nil, nonce, box, ad)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
