package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"

	"github.com/meshswarm/meshswarm/sched"
)

func TestServicePorts(t *testing.T) {
	port := func(protocol swarm.PortConfigProtocol, published, target uint32) swarm.PortConfig {
		return swarm.PortConfig{Protocol: protocol, PublishedPort: published, TargetPort: target, PublishMode: swarm.PortConfigPublishModeIngress}
	}
	for _, c := range []struct {
		name  string
		ports []swarm.PortConfig
		want  string
	}{
		{"none", nil, ""},
		{"one", []swarm.PortConfig{port("tcp", 8080, 80)}, "*:8080->80/tcp"},
		{"run", []swarm.PortConfig{port("tcp", 81, 81), port("tcp", 80, 80), port("tcp", 82, 82)}, "*:80-82->80-82/tcp"},
		{"one target", []swarm.PortConfig{port("tcp", 80, 80), port("tcp", 81, 80)}, "*:80-81->80/tcp"},
		{"run, then back", []swarm.PortConfig{port("tcp", 80, 80), port("tcp", 81, 81), port("tcp", 82, 80)}, "*:80-81->80-81/tcp, *:82->80/tcp"},
		{"one target, then on", []swarm.PortConfig{port("tcp", 80, 80), port("tcp", 81, 80), port("tcp", 82, 81)}, "*:80-81->80/tcp, *:82->81/tcp"},
		{"gap", []swarm.PortConfig{port("tcp", 80, 80), port("tcp", 82, 82)}, "*:80->80/tcp, *:82->82/tcp"},
		{"protocols", []swarm.PortConfig{port("udp", 53, 53), port("tcp", 53, 53)}, "*:53->53/tcp, *:53->53/udp"},
		{"host mode is not shown", []swarm.PortConfig{{Protocol: "tcp", PublishedPort: 1, TargetPort: 1, PublishMode: "host"}}, ""},
	} {
		row := serviceRow{s: swarm.Service{Endpoint: swarm.Endpoint{Ports: c.ports}}}
		if got := row.Ports(); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
}

func TestShortImage(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx": "nginx", "docker.io/library/nginx:1" + digest: "nginx:1", "r.example:5000/a/b:2": "r.example:5000/a/b:2",
		"nginx" + digest: "nginx" + digest, "UPPER": "UPPER", "": "",
	} {
		if got := shortImage(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	o := newServiceOptions()
	for _, v := range []string{"A=1", "B=2", "A=3", "AB=4"} {
		if err := o.env.Set(v); err != nil {
			t.Fatal(err)
		}
	}
	got, err := o.environment()
	if diff := cmp.Diff([]string{"B=2", "A=3", "AB=4"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestChangeHosts(t *testing.T) {
	old := []string{"127.0.0.2 host3 host1 host2 host4", "127.0.0.1 host1 host4", "127.0.0.3 host1", "127.0.0.1 host1"}
	for _, c := range []struct {
		name        string
		add, remove []string
		want        []string
	}{
		{"by name", nil, []string{"host1"}, []string{"127.0.0.2 host3 host2 host4", "127.0.0.1 host4"}},
		{"by name and address", nil, []string{"host1:127.0.0.1"}, []string{"127.0.0.2 host3 host1 host2 host4", "127.0.0.1 host4", "127.0.0.3 host1"}},
		{"add once", []string{"a:::1", "a:::1"}, []string{"host1", "host2", "host3", "host4"}, []string{"::1 a"}},
	} {
		if diff := cmp.Diff(c.want, changeHosts(old, c.add, c.remove)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestChangeCapabilities(t *testing.T) {
	for _, c := range []struct {
		name                                              string
		added, dropped, add, drop, wantAdded, wantDropped string
	}{
		{"add", "", "", "net_raw", "", "CAP_NET_RAW", ""},
		{"add takes a drop back", "", "CAP_NET_RAW", "net_raw", "", "", ""},
		{"drop takes an add back", "CAP_NET_RAW", "", "", "net_raw", "", ""},
		{"add wins", "", "", "chown", "chown", "CAP_CHOWN", ""},
		{"all", "", "", "", "all", "", "ALL"},
		{"reset", "CAP_CHOWN", "", "reset net_raw", "", "CAP_NET_RAW", ""},
	} {
		added, dropped := changeCapabilities(strings.Fields(c.added), strings.Fields(c.dropped), strings.Fields(c.add), strings.Fields(c.drop))
		if strings.Join(added, " ") != c.wantAdded || strings.Join(dropped, " ") != c.wantDropped {
			t.Errorf("%s: added %v, dropped %v", c.name, added, dropped)
		}
	}
}

func TestIPAMConfigs(t *testing.T) {
	got, err := ipamConfigs([]string{"10.1.0.0/24", "fd00::/64"}, []string{"10.1.0.128/25"}, []string{"fd00::1", "10.1.0.1"}, map[string]string{"x": "10.1.0.9"})
	want := []network.IPAMConfig{
		{Subnet: "10.1.0.0/24", IPRange: "10.1.0.128/25", Gateway: "10.1.0.1", AuxAddress: map[string]string{"x": "10.1.0.9"}},
		{Subnet: "fd00::/64", Gateway: "fd00::1", AuxAddress: map[string]string{}},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for name, call := range map[string]func() ([]network.IPAMConfig, error){
		"overlap": func() ([]network.IPAMConfig, error) {
			return ipamConfigs([]string{"10.1.0.0/16", "10.1.2.0/24"}, nil, nil, nil)
		},
		"bad subnet": func() ([]network.IPAMConfig, error) { return ipamConfigs([]string{"10.1"}, nil, nil, nil) },
		"two gateways": func() ([]network.IPAMConfig, error) {
			return ipamConfigs([]string{"10.1.0.0/16"}, nil, []string{"10.1.0.1", "10.1.0.2"}, nil)
		},
		"no subnet": func() ([]network.IPAMConfig, error) { return ipamConfigs(nil, nil, []string{"10.1.0.1"}, nil) },
		"bad address": func() ([]network.IPAMConfig, error) {
			return ipamConfigs([]string{"10.1.0.0/16"}, nil, nil, map[string]string{"a": "b"})
		},
	} {
		if got, err := call(); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n"
	for _, name := range []string{"(bash)", "(a b)", "(x) y)", "()"} {
		state, start, err := parseStat("12 " + name + rest)
		if state != "S" || start != 4711 || err != nil {
			t.Errorf("%s: %s, %d, %v", name, state, start, err)
		}
	}
	for _, text := range []string{"", "12 (x) S 1", "12 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"} {
		if _, _, err := parseStat(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

func TestProcess(t *testing.T) {
	self, err := findProcess(os.Getpid())
	if err != nil || !self.alive() {
		t.Fatal(self, err)
	}
	if err := self.signal(syscall.Signal(0)); err != nil {
		t.Error(err)
	}
	reused := process{PID: self.PID, Start: self.Start + 1}
	if err := reused.signal(syscall.Signal(0)); !errors.Is(err, errNoProcess) || reused.alive() {
		t.Errorf("a process with another start: %v", err)
	}
}

func TestLockDataDir(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDataDir(dir, "/s")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDataDir(dir, "/other"); err == nil || !strings.Contains(err.Error(), "socket /s") {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	unlock, err = lockDataDir(dir, "/other")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestWithPort(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "1.2.3.4": "1.2.3.4:2377", "1.2.3.4:5": "1.2.3.4:5", "host": "host:2377", "::1": "[::1]:2377", "[::1]": "[::1]:2377", "[::1]:5": "[::1]:5",
	} {
		if got := withPort(in, "2377"); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}

func TestDisplays(t *testing.T) {
	var plain bytes.Buffer
	d := newDisplay(&plain, false)
	d.set("a", "1")
	d.set("b", "")
	d.flush()
	d.set("a", "1")
	d.set("a", "2")
	d.set("b", "x  ")
	d.close()
	if want := "a: 1\na: 2\nb: x\n"; plain.String() != want {
		t.Errorf("plain: %q, not %q", plain.String(), want)
	}
	var out bytes.Buffer
	live := &liveDisplay{lines: newLines(), out: &out, size: func() (int, int) { return 9, 3 }}
	live.set("a", "1")
	live.set("b", "long and longer")
	live.set("c", "does not fit")
	live.flush()
	live.flush()
	live.set("a", "2")
	live.close()
	want := "\ra: 1\x1b[K\n\rb: long…\x1b[K\n" + "\x1b[2A\ra: 2\x1b[K\n\rb: long…\x1b[K\n"
	if out.String() != want {
		t.Errorf("live: %q, not %q", out.String(), want)
	}
}

func TestHopeless(t *testing.T) {
	now := time.Now()
	task := func(id string, state, desired swarm.TaskState, err string) swarm.Task {
		return swarm.Task{ID: id, Slot: 1, DesiredState: desired, Meta: swarm.Meta{CreatedAt: now}, Status: swarm.TaskStatus{State: state, Err: err}}
	}
	failed := func(id string) swarm.Task { return task(id, swarm.TaskStateFailed, swarm.TaskStateShutdown, "exit 1") }
	rejected := func(id string) swarm.Task {
		return task(id, swarm.TaskStateRejected, swarm.TaskStateShutdown, "no image")
	}
	waiting := task("w", swarm.TaskStateReady, swarm.TaskStateReady, "")
	limit := uint64(1)
	for _, c := range []struct {
		name   string
		policy *swarm.RestartPolicy
		tasks  []swarm.Task
		want   string
	}{
		{"nothing yet", nil, nil, ""},
		{"one failure", nil, []swarm.Task{failed("a"), waiting}, ""},
		{"three failures", nil, []swarm.Task{failed("a"), failed("b"), failed("c"), waiting}, "ended 3 times (failed): exit 1"},
		{"rejected once", nil, []swarm.Task{rejected("a"), waiting}, ""},
		{"rejected twice, another try runs", nil, []swarm.Task{rejected("a"), rejected("b"), waiting}, ""},
		{"rejected twice", nil, []swarm.Task{rejected("a"), rejected("b")}, "ended 2 times (rejected): no image"},
		{"no restarts", &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}, []swarm.Task{failed("a")}, "ended once (failed)"},
		{"one restart", &swarm.RestartPolicy{MaxAttempts: &limit}, []swarm.Task{failed("a"), failed("b")}, "ended 2 times"},
		{"completed, on failure", &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionOnFailure},
			[]swarm.Task{task("a", swarm.TaskStateComplete, swarm.TaskStateShutdown, "")}, "ended once (complete)"},
		{"scaled down", nil, []swarm.Task{task("a", swarm.TaskStateShutdown, swarm.TaskStateShutdown, ""), task("b", swarm.TaskStateRunning, swarm.TaskStateShutdown, "")}, ""},
	} {
		w := &convergence{}
		err := w.hopeless(&scene{tasks: c.tasks, service: swarm.Service{Spec: swarm.ServiceSpec{
			Annotations: swarm.Annotations{Name: "web"}, TaskTemplate: swarm.TaskSpec{RestartPolicy: c.policy},
		}}})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, not %q", c.name, err, c.want)
		}
	}
}

func TestLogLines(t *testing.T) {
	names := &taskNames{o: &logsOptions{}, cache: map[logOrigin]string{{"n", "s", "t"}: "web.1.t@node1"}}
	const details = "com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t,b=2,a=x%2Cy"
	for _, c := range []struct {
		name, line, want string
		o                logsOptions
	}{
		{"plain", details + " hello world\n", "web.1.t@node1    | hello world\n", logsOptions{}},
		{"empty line", details + " \n", "web.1.t@node1    | \n", logsOptions{}},
		{"time", "2020-01-01T00:00:00Z " + details + " hi\n", "2020-01-01T00:00:00Z web.1.t@node1    | hi\n", logsOptions{timestamps: true}},
		{"details", details + " hi\n", "web.1.t@node1    | a=x,y,b=2 hi\n", logsOptions{details: true}},
		{"no space", "hello\n", "", logsOptions{}},
		{"no origin", "a=b hello\n", "", logsOptions{}},
		{"bad details", "=b hello\n", "", logsOptions{}},
	} {
		var out bytes.Buffer
		w := &logWriter{ctx: t.Context(), o: &c.o, names: names, w: &out}
		_, err := w.Write([]byte(c.line))
		if (err != nil) != (c.want == "") || out.String() != c.want {
			t.Errorf("%s: %q, %v", c.name, out.String(), err)
		}
	}
}

// A signal ends the showing with a word about what goes on, even while the node does not answer.
func TestConvergeInterrupted(t *testing.T) {
	node, err := dialHost("unix:///nowhere/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := (&program{out: &out}).converge(ctx, node, "web", waiting{}); err != nil {
		t.Error(err)
	}
	if want := "Operation continuing in background.\nUse `meshswarm service ps web` to check progress.\n"; out.String() != want {
		t.Errorf("%q, not %q", out.String(), want)
	}
}

// A service can run while a node cannot serve its port: whoever waits for it is told, once.
func TestConvergeComplaints(t *testing.T) {
	task := func(slot int, err string) swarm.Task {
		return swarm.Task{Slot: slot, NodeID: "n", DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateRunning, Err: err}}
	}
	replicas := uint64(3)
	service := swarm.Service{Spec: swarm.ServiceSpec{Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}}}}
	w := &convergence{show: silent{}}
	w.look(&scene{
		service: service, nodes: map[string]swarm.Node{"n": {ID: "n"}}, wanted: 3,
		tasks: []swarm.Task{task(1, "port 80 is busy"), task(2, ""), task(3, "port 80 is busy")},
	})
	if diff := cmp.Diff([]string{"port 80 is busy"}, w.complaints); diff != "" {
		t.Error(diff)
	}
}

// A service of thousands of tasks is explained on a few screens.
func TestExplainMany(t *testing.T) {
	e := &sched.Explanation{Service: "web", Mode: "replicated", Wanted: 5000, Summary: "another task would get no node", Tasks: make([]sched.TaskExplanation, 5000)}
	for i := range e.Tasks {
		e.Tasks[i].Slot = i + 1
	}
	var out bytes.Buffer
	if err := (&program{out: &out}).printExplanation(e); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, "web.100 ") || strings.Contains(text, "web.101 ") || !strings.Contains(text, "… and 4900 more: --format json has all\n") {
		t.Error(text)
	}
}
