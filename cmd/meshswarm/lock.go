package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// owner is written into the lock file, for the message of the second node that wants the same folder.
type owner struct {
	PID    int
	Socket string
}

// lockDataDir makes the folder if needed and takes it for this process; the kernel gives it back when the process
// ends, however it ends.
func lockDataDir(dir, socket string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w: choose another with --data-dir", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w: make it writable or choose another with --data-dir", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer f.Close()
		return nil, inUse(dir, f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	text, err := json.Marshal(owner{os.Getpid(), socket})
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt(text, 0)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write to data directory %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func inUse(dir string, lock io.Reader) error {
	var by owner
	if err := json.NewDecoder(io.LimitReader(lock, 4096)).Decode(&by); err != nil {
		return fmt.Errorf("a node already runs with data directory %s", dir)
	}
	return fmt.Errorf("a node already runs with data directory %s: process %d, socket %s: use it, or stop it with `meshswarm -H unix://%s down`",
		dir, by.PID, by.Socket, by.Socket)
}
