package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of an identity.
const (
	rootFile    = "swarm-root-ca.crt"
	certFile    = "swarm-node.crt"
	keyFile     = "swarm-node.key"
	nextKeyFile = "swarm-node.key.next"
)

// maxFile bounds what is read from disk.
const maxFile = maxPEM

// Save writes the identity into dir (made with mode 0700 if it is not there), each file whole or not at all.
//
// Certificate and key are two files and must change as one: the new key is laid down beside the old one first, the
// certificate's rename is the moment of change, and LoadIdentity takes whichever key fits the certificate.
func (i *Identity) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{rootFile, i.rootPEM}, {nextKeyFile, i.keyPEM}, {certFile, i.certPEM}} {
		if err := writeFile(dir, f.name, f.data); err != nil {
			return fmt.Errorf("save identity: %w", err)
		}
	}
	return takeNextKey(dir)
}

// takeNextKey ends a change of identity.
func takeNextKey(dir string) error {
	if err := os.Rename(filepath.Join(dir, nextKeyFile), filepath.Join(dir, keyFile)); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	return syncDir(dir)
}

// LoadIdentity reads what Save wrote. The error is os.ErrNotExist when there is no identity in dir. A change of identity
// that a crash cut short is finished.
func LoadIdentity(dir string) (*Identity, error) {
	certPEM, err := readFile(dir, certFile)
	if err != nil {
		return nil, err
	}
	rootPEM, err := readFile(dir, rootFile)
	if err != nil {
		return nil, damaged(dir, err)
	}
	keyPEM, keyErr := readFile(dir, keyFile)
	if keyErr == nil {
		i, err := NewIdentity(rootPEM, certPEM, keyPEM)
		if err == nil || !errors.Is(err, errKeyMismatch) {
			return i, wrapLoad(dir, err)
		}
		keyErr = err
	}
	if keyPEM, err = readFile(dir, nextKeyFile); err != nil {
		return nil, damaged(dir, keyErr)
	}
	i, err := NewIdentity(rootPEM, certPEM, keyPEM)
	if err != nil {
		return nil, wrapLoad(dir, err)
	}
	return i, takeNextKey(dir)
}

func wrapLoad(dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("load identity from %s: %w", dir, err)
}

// damaged is an identity of which a part is missing. It is never os.ErrNotExist, so that nobody makes a new identity over
// the rest of an old one.
func damaged(dir string, err error) error {
	return fmt.Errorf("load identity from %s: the folder is incomplete (restore it, or remove it and join again): %v", dir, err)
}

func readFile(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("load identity: %s is not a file of at most %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	return data, nil
}

// writeFile replaces a file as a whole, durably.
func writeFile(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
