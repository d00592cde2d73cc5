package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"
)

// hostEnv names the variable that says where the node listens.
const hostEnv = "MESHSWARM_HOST"

// maxSocketPath is the longest path that a unix socket may have on Linux (sun_path is 108 bytes with its final zero).
const maxSocketPath = 107

// root tells whether the defaults of the whole machine apply, or those of one account.
func root() bool { return os.Geteuid() == 0 }

// defaultDataDir is where a node keeps what must survive a restart.
func defaultDataDir() string {
	if root() {
		return "/var/lib/meshswarm"
	}
	return filepath.Join(xdg.DataHome, "meshswarm")
}

// defaultSocket is where a node listens and where a client looks for it. An account without a runtime folder (no
// login session) has its socket in the folder for its state instead.
func defaultSocket() string {
	if root() {
		return "/run/meshswarm/meshswarm.sock"
	}
	dir := xdg.RuntimeDir
	if info, err := os.Stat(dir); os.Getenv("XDG_RUNTIME_DIR") == "" && (err != nil || !info.IsDir()) {
		dir = filepath.Join(xdg.StateHome, "meshswarm", "run")
	}
	return filepath.Join(dir, "meshswarm", "meshswarm.sock")
}

// defaultLabDir is where the lab keeps its nodes.
func defaultLabDir() string { return filepath.Join(xdg.StateHome, "meshswarm", "lab") }

// checkSocketPath refuses a path that the kernel would refuse less clearly.
func checkSocketPath(path string) error {
	if len(path) <= maxSocketPath {
		return nil
	}
	return fmt.Errorf("socket path %s has %d bytes, the system allows %d: choose a shorter folder", path, len(path), maxSocketPath)
}
