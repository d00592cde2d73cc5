package secrets

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"math/big"
	"strings"
	"time"
)

const (
	tokenPrefix = "SWMTKN-1-"
	digestLen   = 50 // base36 characters of 256 bits
	secretLen   = 25 // base36 characters of 128 bits
)

// Token is a join token in its parts. Neither part belongs into a log.
type Token struct {
	Digest string
	Secret string
}

// String hides the token from logs and error texts. Text gives it.
func (Token) String() string { return tokenPrefix + "…" }

// GoString hides the token too.
func (t Token) GoString() string { return t.String() }

// Text is the token as a user types it.
func (t Token) Text() string { return tokenPrefix + t.Digest + "-" + t.Secret }

// NewToken makes a join token with a fresh secret for the authority with the given digest.
func NewToken(digest string) (string, error) {
	if !isBase36(digest, digestLen) {
		return "", fmt.Errorf("make join token: digest must be %d characters of base36", digestLen)
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return "", fmt.Errorf("make join token: %w", err)
	}
	return Token{Digest: digest, Secret: base36(secret, secretLen)}.Text(), nil
}

// ParseToken reads a join token; white space around it is ignored. A text that is not one earns ErrToken, whose text
// does not repeat it.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(rest) != digestLen+1+secretLen || rest[digestLen] != '-' {
		return Token{}, ErrToken
	}
	t := Token{Digest: rest[:digestLen], Secret: rest[digestLen+1:]}
	if !isBase36(t.Digest, digestLen) || !isBase36(t.Secret, secretLen) {
		return Token{}, ErrToken
	}
	return t, nil
}

// TokensEqual compares two tokens in a time that depends on their lengths only. Two empty texts are not equal: an
// absent token never matches.
func TokensEqual(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// VerifyRoot tells whether certPEM is the authority that the token names: the pin. It returns ErrPin when it is not, and
// a *ClockError when it is but this machine's time is outside of its validity.
func VerifyRoot(certPEM []byte, t Token) error { return verifyRoot(certPEM, t, time.Now()) }

func verifyRoot(certPEM []byte, t Token, now time.Time) error {
	cert, err := parseRoot(certPEM)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(digestOf(cert)), []byte(t.Digest)) != 1 {
		return ErrPin
	}
	return checkTime("the swarm's authority certificate", cert, now)
}

// RootDigest is the part of a join token that pins the authority with this certificate (PEM).
func RootDigest(certPEM []byte) (string, error) {
	cert, err := parseRoot(certPEM)
	if err != nil {
		return "", err
	}
	return digestOf(cert), nil
}

// base36 writes data as a number in base 36, padded to n characters.
func base36(data []byte, n int) string {
	s := new(big.Int).SetBytes(data).Text(36)
	return strings.Repeat("0", n-len(s)) + s
}

func isBase36(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
