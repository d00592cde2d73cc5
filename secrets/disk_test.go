package secrets

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSaveLoad(t *testing.T) {
	a := mustAuthority(t)
	i := mustIdentity(t, a, "node1", RoleManager, time.Now(), time.Hour)
	dir := filepath.Join(t.TempDir(), "certs")
	if _, err := LoadIdentity(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("nothing there: %v", err)
	}
	if err := i.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Peer() != i.Peer() || !bytes.Equal(got.StorageKey(), i.StorageKey()) {
		t.Error("loaded another identity")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("%d files", len(entries))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("folder has mode %v", info.Mode())
	}
}

func renew(t *testing.T, a *Authority, i *Identity, role Role) *Identity {
	t.Helper()
	key, csr, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, i.NodeID(), i.SwarmID(), role, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	next, err := i.Renewed(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestRenewedKeepsStorageKey(t *testing.T) {
	a := mustAuthority(t)
	i := mustIdentity(t, a, "node1", RoleWorker, time.Now(), time.Hour)
	dir := t.TempDir()
	if err := i.Save(dir); err != nil {
		t.Fatal(err)
	}
	next := renew(t, a, i, RoleManager)
	if err := next.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Role() != RoleManager || !bytes.Equal(got.StorageKey(), i.StorageKey()) {
		t.Error("renewal lost role or storage key")
	}
	key, csr, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, "node2", "swarm1", RoleWorker, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Renewed(cert, key); !errors.Is(err, ErrForeign) {
		t.Errorf("renewed into another node: %v", err)
	}
}

// A crash at any step of Save leaves either the old or the new identity.
func TestSaveIsCrashSafe(t *testing.T) {
	a := mustAuthority(t)
	old := mustIdentity(t, a, "node1", RoleWorker, time.Now(), time.Hour)
	next := renew(t, a, old, RoleManager)
	steps := []struct {
		name  string
		files map[string][]byte
		want  Role
	}{
		{"key laid down", map[string][]byte{nextKeyFile: next.keyPEM}, RoleWorker},
		{"certificate changed", map[string][]byte{nextKeyFile: next.keyPEM, certFile: next.certPEM}, RoleManager},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := old.Save(dir); err != nil {
				t.Fatal(err)
			}
			for name, data := range step.files {
				if err := writeFile(dir, name, data); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the repair must last
				got, err := LoadIdentity(dir)
				if err != nil {
					t.Fatal(err)
				}
				if got.Role() != step.want {
					t.Errorf("role %s", got.Role())
				}
			}
		})
	}
}

func TestLoadDamaged(t *testing.T) {
	a := mustAuthority(t)
	i := mustIdentity(t, a, "node1", RoleWorker, time.Now(), time.Hour)
	for _, name := range []string{rootFile, keyFile} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := i.Save(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadIdentity(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				t.Errorf("missing file: %v", err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte("rubbish"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadIdentity(dir); err == nil {
				t.Error("rubbish accepted")
			}
		})
	}
}
