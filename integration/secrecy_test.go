package integration

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecrecy: join tokens are nowhere but in the answer to who asks for them, the authority's key is nowhere in clear,
// and what there is belongs to the account alone.
func TestSecrecy(t *testing.T) {
	l := newLab(t, 2, 2)
	l.deploy(t, "--name", "probe", "--replicas", "2", imageProbe)
	secrets := map[string][]byte{}
	for _, role := range []string{"worker", "manager"} {
		token := strings.TrimSpace(l.on(t, 1, "join-token", "-q", role))
		secrets["the "+role+"s' token"] = []byte(token[strings.LastIndexByte(token, '-')+1:])
	}
	for name, secret := range secrets {
		if len(secret) != 25 {
			t.Fatalf("%s has a secret of %d characters", name, len(secret))
		}
	}

	nodeKeys := 0
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		// What is below the data folder is behind its door.
		door := !d.IsDir() || filepath.Base(path) == "data" || filepath.Dir(path) == l.dir
		// A container has these under /etc, and reads them as whatever user it runs.
		switch filepath.Base(path) {
		case "hosts", "hostname", "resolv.conf":
			door = filepath.Base(filepath.Dir(filepath.Dir(path))) != "sandboxes"
		}
		if door && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may look", path, info.Mode())
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for name, secret := range secrets {
			if bytes.Contains(b, secret) {
				t.Errorf("%s holds %s", path, name)
			}
		}
		// A node's own key is the one that its disk must hold.
		if n := bytes.Count(b, []byte("PRIVATE KEY-----")); n > 0 {
			if nodeKeys++; filepath.Base(path) != "swarm-node.key" || n != 2 {
				t.Errorf("%s holds a key in clear", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if nodeKeys != 2 {
		t.Errorf("%d nodes' keys on disk, want 2", nodeKeys)
	}

	// Nor do others on this machine see one in the list of processes, or in a container's description.
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(filepath.Join(p, file))
			if err != nil {
				continue // ended, or another account's
			}
			for name, secret := range secrets {
				if bytes.Contains(b, secret) {
					t.Errorf("%s/%s shows %s", p, file, name)
				}
			}
		}
	}
	ids := strings.Fields(l.engineDo(t, "ps", "-aq", "--filter", "label=meshswarm.task"))
	described := []byte(l.engineDo(t, append([]string{"inspect"}, ids...)...))
	for name, secret := range secrets {
		if bytes.Contains(described, secret) {
			t.Errorf("a container's description holds %s", name)
		}
	}
}
