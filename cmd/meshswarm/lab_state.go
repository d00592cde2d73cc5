package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxLabNodes keeps the nodes within 127.0.0.1 … 127.0.0.100.
const maxLabNodes = 100

// labFile is the name of the lab's file in its folder.
const labFile = "lab.json"

// lab is a set of nodes that run as processes of one machine, kept in one folder.
type lab struct {
	dir  string
	lock *os.File
	labState
}

// labState is the lab's file.
type labState struct {
	DockerHost, LogLevel, TaskDevice string
	Nodes                            []*labNode
}

// labNode is one node of the lab.
type labNode struct {
	Name, Addr string
	Manager    bool
	// Joined is set once the node has been ready: from then on it starts from its own disk.
	Joined  bool
	Process process

	dir string
}

func (n *labNode) socket() string  { return filepath.Join(n.dir, "meshswarm.sock") }
func (n *labNode) host() string    { return "unix://" + n.socket() }
func (n *labNode) logPath() string { return filepath.Join(n.dir, "log") }

// role is the word for people.
func (n *labNode) role() string {
	if n.Manager {
		return "manager"
	}
	return "worker"
}

func (n *labNode) status() string {
	if n.Process.alive() {
		return "running"
	}
	return "stopped"
}

// options is the command line that the node is started with.
func (n *labNode) options(s *labState) *upOptions {
	o := newUpOptions()
	o.dataDir, o.socket = filepath.Join(n.dir, "data"), n.socket()
	o.listenAddr, o.advertiseAddr, o.publishAddr = n.Addr+":"+controlPort, n.Addr, n.Addr
	o.hostname, o.dockerHost, o.logLevel, o.taskDevice = n.Name, s.DockerHost, s.LogLevel, s.TaskDevice
	return o
}

// openLab reads the lab of a folder and keeps other lab commands out until close. Only with create may the folder be
// empty.
func openLab(dir string, create bool) (*lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, labFile)); err != nil && !create {
		return nil, fmt.Errorf("no lab in %s: `meshswarm lab up` starts one, --dir names another folder", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create lab folder: %w: choose another with --dir", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lab.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lab folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another lab command works on %s: wait for it", dir)
	}
	l := &lab{dir: dir, lock: lock}
	if err := l.load(); err != nil {
		lock.Close()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() { l.lock.Close() }

func (l *lab) path() string { return filepath.Join(l.dir, labFile) }

func (l *lab) load() error {
	text, err := os.ReadFile(l.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read lab: %w", err)
	}
	if err := json.Unmarshal(text, &l.labState); err != nil {
		return fmt.Errorf("read lab file %s: %w", l.path(), err)
	}
	for _, n := range l.Nodes {
		n.dir = filepath.Join(l.dir, n.Name)
	}
	return nil
}

func (l *lab) save() error {
	text, err := json.MarshalIndent(l.labState, "", "  ")
	if err != nil {
		return err
	}
	next := l.path() + ".new"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	if err := os.Rename(next, l.path()); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	return nil
}

// plan makes the lab have this many nodes, the first ones managers. A lab only grows.
func (l *lab) plan(nodes, managers int) error {
	switch {
	case nodes < 1 || nodes > maxLabNodes:
		return fmt.Errorf("--nodes %d: write a number from 1 to %d", nodes, maxLabNodes)
	case managers < 1 || managers > nodes:
		return fmt.Errorf("--managers %d: write a number from 1 to %d, the number of nodes", managers, nodes)
	case nodes < len(l.Nodes):
		return fmt.Errorf("the lab in %s has %d nodes already: `meshswarm lab down` first for a smaller one", l.dir, len(l.Nodes))
	}
	for i := len(l.Nodes) + 1; i <= nodes; i++ {
		name := fmt.Sprintf("node%d", i)
		n := &labNode{Name: name, Addr: fmt.Sprintf("127.0.0.%d", i), Manager: i <= managers, dir: filepath.Join(l.dir, name)}
		if err := checkSocketPath(n.socket()); err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, n)
	}
	return nil
}

func (l *lab) node(name string) (*labNode, error) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the lab in %s has no node %q: `meshswarm lab ps` lists them", l.dir, name)
}
