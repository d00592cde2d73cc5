package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/docker/api/types/swarm"
	"golang.org/x/sys/unix"

	"github.com/meshswarm/meshswarm/mesh"
	"github.com/meshswarm/meshswarm/raft/state"
)

// Files of the data directory. What could tell a secret is sealed with the node's storage key.
const (
	certDir         = "certificates"
	raftDir         = "raft"
	tasksDir        = "tasks"
	sandboxesDir    = "sandboxes" // agent/docker's
	membershipFile  = "node.json"
	assignmentsFile = "assignments"
	meshKeyFile     = "mesh.key"
)

// sealer keeps a file's content from whoever reads the disk (secrets.Sealer).
type sealer interface {
	Seal(ad, plain []byte) []byte
	Open(ad, sealed []byte) ([]byte, error)
}

// membership is what a node must know to come back before it has spoken to anybody. Nothing in it is secret.
type membership struct {
	// Managers are control addresses, newest knowledge; a session needs one that answers.
	Managers []string
	// RaftMember is set once this manager was added to the quorum.
	RaftMember bool
	// ListenAddr and the others are the flags of the last start that went well: a later `up` without flags means the same node.
	ListenAddr, AdvertiseAddr, PublishAddr, Hostname, DockerHost, TaskDevice string                  `json:",omitempty"`
	DataPathPort                                                             uint16                  `json:",omitempty"`
	Labels                                                                   map[string]string       `json:",omitempty"`
	GenericResources                                                         []swarm.GenericResource `json:",omitempty"`
}

func loadMembership(dir string) (membership, error) {
	var m membership
	b, err := os.ReadFile(filepath.Join(dir, membershipFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w", membershipFile, err)
	}
	return m, nil
}

func (m membership) save(dir string) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, membershipFile), b)
}

// withFlags fills what this start's command line leaves open with what an earlier one said.
func (m membership) withFlags(c Config) Config {
	for _, f := range []struct {
		now   *string
		saved string
	}{
		{&c.ListenAddr, m.ListenAddr}, {&c.AdvertiseAddr, m.AdvertiseAddr}, {&c.PublishAddr, m.PublishAddr},
		{&c.Hostname, m.Hostname}, {&c.DockerHost, m.DockerHost}, {&c.TaskDevice, m.TaskDevice},
	} {
		if *f.now == "" {
			*f.now = f.saved
		}
	}
	if c.DataPathPort == 0 {
		c.DataPathPort = m.DataPathPort
	}
	if len(c.Labels) == 0 {
		c.Labels = m.Labels
	}
	if len(c.GenericResources) == 0 {
		c.GenericResources = m.GenericResources
	}
	return c
}

// remember notes this start's command line.
func (m *membership) remember(c Config) {
	m.ListenAddr, m.AdvertiseAddr, m.PublishAddr = c.ListenAddr, c.AdvertiseAddr, c.PublishAddr
	m.Hostname, m.DockerHost, m.TaskDevice, m.DataPathPort = c.Hostname, c.DockerHost, c.TaskDevice, c.DataPathPort
	m.Labels, m.GenericResources = c.Labels, c.GenericResources
}

// loadAssignments reads what the leader last said. A missing or damaged file is no assignments: the next session brings
// them; the error says why.
func loadAssignments(dir string, s sealer) (state.Assignments, error) {
	var a state.Assignments
	sealed, err := os.ReadFile(filepath.Join(dir, assignmentsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	plain, err := s.Open([]byte(assignmentsFile), sealed)
	if err != nil {
		return a, fmt.Errorf("open %s: %w", assignmentsFile, err)
	}
	if err := json.Unmarshal(plain, &a); err != nil {
		return state.Assignments{}, fmt.Errorf("read %s: %w", assignmentsFile, err)
	}
	return a, nil
}

func saveAssignments(dir string, s sealer, a state.Assignments) error {
	plain, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, assignmentsFile), s.Seal([]byte(assignmentsFile), plain))
}

// loadMeshKey reads the node's WireGuard key, or makes one. It never leaves the node.
func loadMeshKey(dir string, s sealer) (mesh.Key, error) {
	path := filepath.Join(dir, meshKeyFile)
	sealed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := mesh.NewKey()
		if err != nil {
			return mesh.Key{}, fmt.Errorf("make the mesh key: %w", err)
		}
		return key, writeFile(path, s.Seal([]byte(meshKeyFile), key[:]))
	}
	if err != nil {
		return mesh.Key{}, err
	}
	plain, err := s.Open([]byte(meshKeyFile), sealed)
	if err != nil || len(plain) != len(mesh.Key{}) {
		return mesh.Key{}, fmt.Errorf("%s is damaged or of another node: remove it to make a new key", path)
	}
	return mesh.Key(plain), nil
}

// writeFile replaces a file whole or not at all, readable by its owner only.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone after the rename
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

// forget removes everything that makes this directory a member of a swarm.
func forget(dir string) error {
	var errs []error
	for _, f := range []string{certDir, raftDir, tasksDir, membershipFile, assignmentsFile, meshKeyFile, sandboxesDir} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, f)))
	}
	return errors.Join(errs...)
}
