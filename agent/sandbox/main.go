package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// Main is the hidden command "meshswarm sandbox [DIR]", the process of the sandbox container. DIR is the shared folder,
// MountPoint when it is not given. It returns only with an error; SIGTERM ends the process with exit code 0.
//
// The first stage needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE and CAP_SETPCAP over its namespaces, and
// CAP_SYS_ADMIN where TUN is closed; the second has none.
func Main(args []string) error {
	if len(args) == 2 && args[0] == keepArg {
		fd, err := strconv.Atoi(args[1])
		if err != nil {
			return fmt.Errorf("sandbox: %q is not a descriptor", args[1])
		}
		return keep(fd)
	}
	if len(args) > 1 {
		return fmt.Errorf("sandbox: takes at most one argument, the shared folder")
	}
	dir := MountPoint
	if len(args) == 1 {
		dir = args[0]
	}
	err := build(dir)
	if werr := os.WriteFile(filepath.Join(dir, ErrorFile), []byte(err.Error()), 0o644); werr != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", werr)
	}
	return fmt.Errorf("sandbox: %w", err)
}

// build is the first stage: it sets everything up and then replaces the process by the second stage. It returns only
// when that does not succeed.
func build(dir string) error {
	for _, name := range []string{ErrorFile, SocketFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	spec, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	s := &setup{}
	if err := s.run(spec); err != nil {
		return err
	}
	listener, owner, err := listen(dir)
	if err != nil {
		return err
	}
	state := keepState{Listener: listener, Owner: owner, Files: s.files(), Reply: s.reply()}
	// Capabilities belong to threads: the thread that drops them is the one that executes the second stage, and the
	// others end with that.
	runtime.LockOSThread()
	return state.exec()
}
