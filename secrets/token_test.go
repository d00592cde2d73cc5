package secrets

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestToken(t *testing.T) {
	a := mustAuthority(t)
	text, err := NewToken(a.Digest())
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewToken(a.Digest())
	if err != nil {
		t.Fatal(err)
	}
	if text == other || TokensEqual(text, other) || !TokensEqual(text, text) || TokensEqual("", "") {
		t.Error("tokens are compared wrongly")
	}
	tok, err := ParseToken(" " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if tok.Text() != text || tok.Digest != a.Digest() {
		t.Errorf("read back %q from %q", tok.Text(), text)
	}
	for _, shown := range []string{fmt.Sprint(tok), fmt.Sprintf("%+v", tok), fmt.Sprintf("%#v", tok)} {
		if strings.Contains(shown, tok.Secret) {
			t.Errorf("printing shows the secret")
		}
	}
	if err := VerifyRoot(a.CertPEM(), tok); err != nil {
		t.Errorf("own root: %v", err)
	}
	if err := VerifyRoot(mustAuthority(t).CertPEM(), tok); !errors.Is(err, ErrPin) {
		t.Errorf("foreign root: %v", err)
	}
	var clock *ClockError
	if err := verifyRoot(a.CertPEM(), tok, time.Now().Add(-48*time.Hour)); !errors.As(err, &clock) || !strings.Contains(err.Error(), "check this machine's clock") {
		t.Errorf("clock behind: %v", err)
	}
}

func TestParseTokenRefuses(t *testing.T) {
	d, s := strings.Repeat("a", digestLen), strings.Repeat("1", secretLen)
	for _, text := range []string{
		"", "SWMTKN-1-", "SWMTKN-1-" + d, "SWMTKN-2-" + d + "-" + s, "SWMTKN-1--" + s, "SWMTKN-1-" + d + "-" + s + "x",
		"SWMTKN-1-" + strings.ToUpper(d) + "-" + s, "SWMTKN-1-" + d + s + "-", "SWMTKN-1-" + d + "_" + s,
	} {
		_, err := ParseToken(text)
		if !errors.Is(err, ErrToken) {
			t.Errorf("%q: %v", text, err)
		}
		if text != "" && strings.Contains(err.Error(), s) {
			t.Error("the error repeats the secret")
		}
	}
	if _, err := NewToken("short"); err == nil {
		t.Error("NewToken accepted a bad digest")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("SWMTKN-1-" + strings.Repeat("0", digestLen) + "-" + strings.Repeat("z", secretLen))
	f.Add("SWMTKN-1-x-y")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err == nil && tok.Text() != strings.TrimSpace(s) {
			t.Fatalf("%q became %q", s, tok.Text())
		}
	})
}

func TestSealer(t *testing.T) {
	key, err := NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	ad, plain := []byte("place"), []byte("canary")
	box := s.Seal(ad, plain)
	if strings.Contains(string(box), "canary") || len(box) != len(plain)+40 || string(box) == string(s.Seal(ad, plain)) {
		t.Error("not sealed as promised")
	}
	if got, err := s.Open(ad, box); err != nil || string(got) != "canary" {
		t.Errorf("open: %q, %v", got, err)
	}
	for n := range box {
		bent := []byte(string(box))
		bent[n] ^= 1
		if _, err := s.Open(ad, bent); !errors.Is(err, ErrSealed) {
			t.Fatalf("bit flipped in byte %d: %v", n, err)
		}
	}
	if _, err := s.Open([]byte("elsewhere"), box); !errors.Is(err, ErrSealed) {
		t.Errorf("other place: %v", err)
	}
	if _, err := s.Open(ad, box[:10]); !errors.Is(err, ErrSealed) {
		t.Errorf("short: %v", err)
	}
	if _, err := NewSealer(key[:5]); err == nil {
		t.Error("short key accepted")
	}
}
