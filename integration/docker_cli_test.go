package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestDockerCLI drives the unmodified docker command against a node's socket.
func TestDockerCLI(t *testing.T) {
	if _, err := exec.LookPath("docker"); err != nil {
		t.Fatalf("the docker command is not installed (`make setup`): %v", err)
	}
	l := newLab(t, 2, 1)
	d := func(args ...string) string { t.Helper(); return l.docker(t, 1, args...) }

	if out := d("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}"); !strings.Contains(out, "node1 Ready Active Leader") || !strings.Contains(out, "node2 Ready Active") {
		t.Errorf("node ls:\n%s", out)
	}
	if out := d("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}}"); strings.TrimSpace(out) != "active true 2 1" {
		t.Errorf("info: %s", out)
	}
	d("network", "create", "-d", "overlay", "--subnet", "10.50.0.0/24", "app")
	if out := d("network", "inspect", "app", "--format", "{{.Driver}} {{.Scope}} {{(index .IPAM.Config 0).Subnet}}"); strings.TrimSpace(out) != "overlay swarm 10.50.0.0/24" {
		t.Errorf("network inspect: %s", out)
	}
	if out := d("network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}}"); !strings.Contains(out, "app") || !strings.Contains(out, "ingress") {
		t.Errorf("network ls:\n%s", out)
	}
	out := d("service", "create", "--name", "cliweb", "--replicas", "2", "--network", "app", "--publish", "8090:8080", "--env", "A=1", "--no-resolve-image", imageProbe)
	if !strings.Contains(out, "verify: Service") && !strings.Contains(out, "converged") {
		t.Errorf("service create does not say that it converged:\n%s", out)
	}
	if out, err := fetch("http://127.0.0.2:8090/", 5*time.Second); err != nil {
		t.Errorf("published port: %v %s", err, out)
	}
	if out := d("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Ports}}"); strings.TrimSpace(out) != "cliweb replicated 2/2 *:8090->8080/tcp" {
		t.Errorf("service ls: %q", out)
	}
	var inspected []struct {
		Spec struct{ Name string }
	}
	if err := json.Unmarshal([]byte(d("service", "inspect", "cliweb")), &inspected); err != nil || len(inspected) != 1 || inspected[0].Spec.Name != "cliweb" {
		t.Errorf("service inspect: %v %+v", err, inspected)
	}
	if out := d("service", "inspect", "--pretty", "cliweb"); !strings.Contains(out, "Replicas:\t2") {
		t.Errorf("service inspect --pretty:\n%s", out)
	}
	d("service", "scale", "cliweb=3")
	d("service", "update", "--env-add", "B=2", "--no-resolve-image", "cliweb")
	if out := d("service", "ps", "cliweb", "--filter", "desired-state=running", "--format", "{{.Name}} {{.CurrentState}}"); strings.Count(out, "Running") != 3 {
		t.Errorf("service ps:\n%s", out)
	}
	eventually(t, 15*time.Second, "logs of all replicas", func() error {
		out, err := l.tryDocker(1, "service", "logs", "--raw", "cliweb")
		if n := strings.Count(out, "serving as"); err != nil || n < 3 {
			return fmt.Errorf("%d lines, %w\n%s", n, errOr(err), out)
		}
		return nil
	})
	if out := d("service", "logs", "cliweb"); !strings.Contains(out, "@node2") {
		t.Errorf("logs do not name their nodes:\n%s", out)
	}

	// The rest of the API is the node's engine's; the sandboxes do not show.
	task := l.taskOn(t, "cliweb", "node1")
	if out := d("ps", "--format", "{{.Names}}"); !strings.Contains(out, task) || strings.Contains(out, "sandbox") {
		t.Errorf("ps:\n%s", out)
	}
	if out := d("exec", task, "/probe", "lookup", "cliweb"); !strings.HasPrefix(out, "NOERROR 10.50.0.") {
		t.Errorf("exec: %s", out)
	}
	if out := d("run", "--rm", "--network", "none", "--label", "meshswarm.test=run", imageProbe, "/probe", "fail", "0"); strings.TrimSpace(out) != "failing as asked" {
		t.Errorf("run: %q", out)
	}
	t.Run("errors", func(t *testing.T) {
		for name, tt := range map[string]struct{ args, want string }{
			"name conflict":   {"service create --name cliweb --no-resolve-image " + imageProbe, "name conflicts with an existing object"},
			"no such service": {"service inspect nope", "no such service"},
			"no such network": {"service create --network nope --no-resolve-image " + imageProbe, "nope"},
			"port taken":      {"service create --publish 8090:1 --no-resolve-image " + imageProbe, "8090"},
			"subnet overlaps": {"network create -d overlay --subnet 10.50.0.128/25 other", "overlap"},
			"network in use":  {"network rm app", "in use"},
			"unknown mode":    {"service create --mode everywhere --no-resolve-image " + imageProbe, "unknown mode"},
			"secrets":         {"secret create s /etc/hostname", "secret"},
			"ready node":      {"node rm node2", "not down"},
			"bad constraint":  {"service create --constraint node.role --no-resolve-image " + imageProbe, "constraint"},
		} {
			t.Run(name, func(t *testing.T) {
				out, err := l.tryDocker(1, strings.Fields(tt.args)...)
				if err == nil || !strings.Contains(strings.ToLower(out), tt.want) {
					t.Errorf("docker %s: %v\n%s\nwant an error with %q", tt.args, err, out, tt.want)
				}
			})
		}
	})
	d("service", "rm", "cliweb")
	eventually(t, 30*time.Second, "containers and network gone", func() error {
		if out := l.engineDo(t, "ps", "-aq", "--filter", "label=com.docker.swarm.service.name=cliweb"); out != "" {
			return fmt.Errorf("containers:\n%s", out)
		}
		_, err := l.tryDocker(1, "network", "rm", "app")
		return err
	})
}
