package integration

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// What an idle node may take, in KiB.
const (
	maxAgentRSS       = 40 << 10
	maxSandboxPrivate = 6 << 10
)

// TestMemory measures idle agents and sandboxes.
func TestMemory(t *testing.T) {
	l := newLab(t, 3, 1)
	agents := l.agents(t)
	for i, pid := range agents {
		rss := procKiB(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		t.Logf("idle agent of node%d: %.1f MiB RSS", i+1, float64(rss)/1024)
		if rss > maxAgentRSS {
			t.Errorf("idle agent of node%d: %d KiB RSS, limit %d", i+1, rss, maxAgentRSS)
		}
	}
	l.deploy(t, "--name", "idle", "--replicas", "3", imageProbe)
	var sandboxes []string
	for _, task := range strings.Fields(l.on(t, 1, "service", "ps", "-q", "--no-trunc", "idle")) {
		sandboxes = append(sandboxes, strings.Fields(l.engineDo(t, "ps", "-q", "--filter", "label=meshswarm.sandbox="+task))...)
	}
	if len(sandboxes) != 3 {
		t.Fatalf("%d sandboxes of three tasks", len(sandboxes))
	}
	pids := l.engineDo(t, append([]string{"inspect", "--format", "{{.State.Pid}}"}, sandboxes...)...)
	for _, pid := range strings.Fields(pids) {
		private := procKiB(t, "/proc/"+pid+"/smaps_rollup", "Private_Clean:", "Private_Dirty:")
		t.Logf("sandbox %s: %.1f MiB private", pid, float64(private)/1024)
		if private > maxSandboxPrivate {
			t.Errorf("sandbox %s: %d KiB private, limit %d", pid, private, maxSandboxPrivate)
		}
	}
}

// agents are the nodes' processes.
func (l *lab) agents(t *testing.T) []int {
	t.Helper()
	var pids []int
	for line := range strings.Lines(l.lab(t, "ps")) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasPrefix(f[0], "node") {
			pid, err := strconv.Atoi(f[3])
			if err != nil {
				t.Fatalf("lab ps: %v in %q", err, line)
			}
			pids = append(pids, pid)
		}
	}
	if len(pids) != l.nodes {
		t.Fatalf("%d agents of %d nodes", len(pids), l.nodes)
	}
	return pids
}

// procKiB adds up fields of a file under /proc that are given in kB.
func procKiB(t *testing.T, path string, fields ...string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, found := 0, 0
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text())
		for _, want := range fields {
			if len(words) > 1 && words[0] == want {
				n, err := strconv.Atoi(words[1])
				if err != nil {
					t.Fatal(err)
				}
				sum += n
				found++
			}
		}
	}
	if found != len(fields) {
		t.Fatalf("%s has %d of %v", path, found, fields)
	}
	return sum
}
