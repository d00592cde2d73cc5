package sched

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"

	"github.com/meshswarm/meshswarm/raft/state"
)

var update = flag.Bool("update", false, "write the results of scenarios as their golden tables")

// TestScenarios runs testdata/*.txt: paragraphs of commands, each followed by "----" and what they print.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := runScenario(t, string(data))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(data), got); d != "" {
				t.Errorf("scenario went another way (-want +got), -update to accept:\n%s", d)
			}
		})
	}
}

// runScenario returns the text with the results in place of the golden ones.
func runScenario(t *testing.T, text string) string {
	s := &scenario{world: newWorld(t), specs: map[string]map[string][]string{}}
	defer s.close()
	var out strings.Builder
	for i, para := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		if i > 0 {
			out.WriteString("\n")
		}
		commands, _, _ := strings.Cut(para, "\n----")
		var printed strings.Builder
		for line := range strings.Lines(commands) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				printed.WriteString(s.command(strings.Fields(line)))
			}
		}
		out.WriteString(strings.TrimRight(commands, "\n") + "\n")
		if printed.Len() > 0 {
			out.WriteString("----\n" + printed.String())
		}
	}
	return out.String()
}

type scenario struct {
	*world
	specs   map[string]map[string][]string // options of services and nodes, by name
	created []string                       // services
}

func (s *scenario) command(f []string) string {
	s.t.Helper()
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	switch f[0] {
	case "node":
		s.node(f[1], f[2:])
	case "rmnode":
		s.apply(state.Op{Action: state.Delete, Object: s.store.View().Node(f[1])})
	case "network":
		s.network(f[1], f[2:])
	case "rmnetwork":
		n := s.store.View().NetworkByName(f[1]).Clone()
		n.PendingDelete = true
		s.apply(state.Op{Action: state.Update, Object: n, Expected: n.Modified})
	case "service":
		s.service(f[1], f[2:])
	case "rm":
		c := s.store.View().ServiceByName(f[1]).Clone()
		c.PendingDelete = true
		s.apply(state.Op{Action: state.Update, Object: c, Expected: c.Modified})
	case "work":
		s.work()
	case "think":
		s.settle()
	case "leader":
		s.lead()
	case "advance":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.advance(d)
	case "report": // report SERVICE.SLOT STATE message
		name, slot, _ := strings.Cut(f[1], ".")
		n, _ := strconv.Atoi(slot)
		s.report(s.task(name, n).ID, swarm.TaskState(f[2]), strings.Join(f[3:], " "))
		s.settle()
	case "tasks":
		return s.tasks(arg(1))
	case "services":
		return s.services()
	case "networks":
		return s.networks()
	case "nodes":
		return s.nodes()
	case "spread":
		return s.spread(f[1])
	default:
		s.t.Fatalf("unknown command %q", f)
	}
	return ""
}

// options merges key=value arguments into what was said before about a thing. A key may be given several times.
func (s *scenario) options(name string, args []string) map[string][]string {
	o := s.specs[name]
	if o == nil {
		o = map[string][]string{}
		s.specs[name] = o
	}
	fresh := map[string]bool{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		if !fresh[k] {
			o[k] = nil
		}
		fresh[k] = true
		if v != "" || !strings.Contains(a, "=") {
			o[k] = append(o[k], v)
		}
	}
	return o
}

func one(o map[string][]string, key, fallback string) string {
	if len(o[key]) > 0 {
		return o[key][0]
	}
	return fallback
}

func number(o map[string][]string, key string, fallback float64) float64 {
	if len(o[key]) == 0 {
		return fallback
	}
	f, err := strconv.ParseFloat(o[key][0], 64)
	if err != nil {
		panic(err)
	}
	return f
}

func duration(o map[string][]string, key string) time.Duration {
	d, err := time.ParseDuration(one(o, key, "0s"))
	if err != nil {
		panic(err)
	}
	return d
}

func (s *scenario) node(id string, args []string) {
	o := s.options("node "+id, args)
	n := &state.Node{ID: id}
	op := state.Op{Action: state.Create, Object: n}
	if is := s.store.View().Node(id); is != nil {
		n = is.Clone()
		op = state.Op{Action: state.Update, Object: n, Expected: is.Modified}
	}
	n.Role = swarm.NodeRole(one(o, "role", "worker"))
	n.Description.Hostname = id
	n.Description.Platform = swarm.Platform{OS: "linux", Architecture: one(o, "arch", "x86_64")}
	n.Description.Resources = swarm.Resources{NanoCPUs: int64(number(o, "cpus", 4) * 1e9), MemoryBytes: int64(number(o, "mem", 1024)) << 20}
	n.Spec.Availability = swarm.NodeAvailability(one(o, "availability", "active"))
	n.Spec.Labels = map[string]string{}
	for _, l := range o["label"] {
		k, v, _ := strings.Cut(l, "=")
		n.Spec.Labels[k] = v
	}
	n.MinPort = uint16(number(o, "minport", 0))
	for _, p := range o["host"] {
		n.HostPrefixes = append(n.HostPrefixes, netip.MustParsePrefix(p))
	}
	n.Status.State = swarm.NodeState(one(o, "state", "ready"))
	if down(n) && n.Down.IsZero() {
		n.Down = s.clock.Now()
	} else if !down(n) {
		n.Down = time.Time{}
	}
	s.apply(op)
}

func (s *scenario) network(name string, args []string) {
	o := s.options("network "+name, args)
	n := &state.Network{ID: "net-" + name}
	n.Spec.Name = name
	_, n.Spec.Internal = o["internal"]
	_, n.Spec.Ingress = o["ingress"]
	if len(o["subnet"]) > 0 {
		n.Spec.IPAMOptions = &swarm.IPAMOptions{}
		for _, p := range o["subnet"] {
			n.Spec.IPAMOptions.Configs = append(n.Spec.IPAMOptions.Configs, swarm.IPAMConfig{Subnet: p})
		}
	}
	s.apply(state.Op{Action: state.Create, Object: n})
}

// service creates a service or updates it, as the API would.
func (s *scenario) service(name string, args []string) {
	spec := serviceSpec(name, s.options("service "+name, args))
	is := s.store.View().ServiceByName(name)
	if is == nil {
		id := "svc-" + name
		if n := len(s.created); slices.Contains(s.created, id) { // an ID is never used again
			id += strconv.Itoa(n)
		}
		s.created = append(s.created, id)
		s.create(id, spec)
		return
	}
	s.updateService(is, spec)
}

func (w *world) create(id string, spec swarm.ServiceSpec) {
	w.t.Helper()
	w.apply(
		state.Op{Action: state.Create, Object: &state.Service{ID: id, Spec: spec, SpecVersion: 1}},
		state.Op{Action: state.Create, Object: &state.Revision{ServiceID: id, SpecVersion: 1, Spec: spec.TaskTemplate, Endpoint: spec.EndpointSpec}},
	)
}

func (w *world) updateService(is *state.Service, spec swarm.ServiceSpec) {
	w.t.Helper()
	c := is.Clone()
	old := is.Spec
	c.PreviousSpec, c.Spec, c.UpdateStatus = &old, spec, nil
	ops := []state.Op{{Action: state.Update, Object: c, Expected: is.Modified, SpecChange: true}}
	if !equal(old.TaskTemplate, spec.TaskTemplate) || !equal(old.EndpointSpec, spec.EndpointSpec) {
		c.SpecVersion++
		ops = append(ops, state.Op{Action: state.Create, Object: &state.Revision{
			ServiceID: c.ID, SpecVersion: c.SpecVersion, Spec: spec.TaskTemplate, Endpoint: spec.EndpointSpec,
		}})
	}
	w.apply(ops...)
}

func serviceSpec(name string, o map[string][]string) swarm.ServiceSpec {
	replicas := uint64(number(o, "replicas", 1))
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: name},
		Mode:        swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: one(o, "image", "app:1")},
			Placement:     &swarm.Placement{MaxReplicas: uint64(number(o, "per-node", 0))},
			Resources: &swarm.ResourceRequirements{Reservations: &swarm.Resources{
				NanoCPUs: int64(number(o, "cpus", 0) * 1e9), MemoryBytes: int64(number(o, "mem", 0)) << 20,
			}},
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyCondition(one(o, "restart", ""))},
		},
		UpdateConfig: &swarm.UpdateConfig{
			Parallelism: uint64(number(o, "parallelism", 1)), Delay: duration(o, "update-delay"), FailureAction: one(o, "failure", ""),
			Monitor: duration(o, "monitor"), MaxFailureRatio: float32(number(o, "ratio", 0)), Order: one(o, "order", ""),
		},
	}
	if one(o, "mode", "") == "global" {
		spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
	}
	p := spec.TaskTemplate.RestartPolicy
	if len(o["delay"]) > 0 {
		d := duration(o, "delay")
		p.Delay = &d
	}
	if len(o["attempts"]) > 0 {
		n := uint64(number(o, "attempts", 0))
		p.MaxAttempts = &n
	}
	if len(o["window"]) > 0 {
		d := duration(o, "window")
		p.Window = &d
	}
	for _, a := range o["arch"] {
		spec.TaskTemplate.Placement.Platforms = append(spec.TaskTemplate.Placement.Platforms, swarm.Platform{Architecture: a, OS: "linux"})
	}
	spec.TaskTemplate.Placement.Constraints = slices.Clone(o["constraint"])
	spec.TaskTemplate.ContainerSpec.Hostname = one(o, "hostname", "")
	for _, n := range o["network"] {
		n, alias, ok := strings.Cut(n, ":")
		a := swarm.NetworkAttachmentConfig{Target: "net-" + n}
		if ok {
			a.Aliases = []string{alias}
		}
		spec.TaskTemplate.Networks = append(spec.TaskTemplate.Networks, a)
	}
	if len(o["port"]) > 0 || len(o["endpoint"]) > 0 {
		spec.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionMode(one(o, "endpoint", ""))}
	}
	for _, p := range o["port"] { // PUBLISHED:TARGET[/host]
		published, target, _ := strings.Cut(p, ":")
		target, host := strings.CutSuffix(target, "/host")
		c := swarm.PortConfig{Protocol: "tcp"}
		if host {
			c.PublishMode = swarm.PortConfigPublishModeHost
		}
		n, _ := strconv.Atoi(published)
		c.PublishedPort = uint32(n)
		n, _ = strconv.Atoi(target)
		c.TargetPort = uint32(n)
		spec.EndpointSpec.Ports = append(spec.EndpointSpec.Ports, c)
	}
	return spec
}

// table renders rows of tab-separated cells.
func table(rows ...string) string {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, r)
	}
	w.Flush()
	var out strings.Builder
	for line := range strings.Lines(buf.String()) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

func (s *scenario) tasks(service string) string {
	tasks := s.store.View().Tasks()
	slices.SortFunc(tasks, func(a, b *state.Task) int {
		if c := strings.Compare(a.ServiceName, b.ServiceName); c != 0 {
			return c
		}
		if a.Slot != b.Slot {
			return a.Slot - b.Slot
		}
		return byAge(b, a)
	})
	rows := []string{"TASK\tID\tVERSION\tNODE\tDESIRED\tSTATE\tADDRESSES\tMESSAGE"}
	for _, t := range tasks {
		if service != "" && t.ServiceName != service {
			continue
		}
		var addrs []string
		for _, n := range t.Networks {
			for _, a := range n.Addresses {
				addrs = append(addrs, a.Addr().String())
			}
		}
		message := t.Status.Message
		if t.Status.Err != "" {
			message += ": " + t.Status.Err
		}
		rows = append(rows, fmt.Sprintf("%s.%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s", t.ServiceName, t.Slot, t.ID, t.SpecVersion, or(t.NodeID), t.DesiredState,
			t.Status.State, or(strings.Join(addrs, ",")), message))
	}
	return table(rows...)
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (s *scenario) services() string {
	rows := []string{"SERVICE\tVERSION\tVIPS\tPORTS\tUPDATE"}
	for _, v := range s.store.View().Services() {
		var vips, ports []string
		for _, a := range v.Endpoint.VirtualIPs {
			vips = append(vips, a.Addr)
		}
		for _, p := range v.Endpoint.Ports {
			ports = append(ports, fmt.Sprintf("%d->%d/%s", p.PublishedPort, p.TargetPort, p.Protocol))
		}
		status := "-"
		if u := v.UpdateStatus; u != nil {
			status = string(u.State) + ": " + u.Message
		}
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s\t%s", v.Spec.Name, v.SpecVersion, or(strings.Join(vips, ",")), or(strings.Join(ports, ",")), status))
	}
	return table(rows...)
}

func (s *scenario) networks() string {
	rows := []string{"NETWORK\tSUBNET\tGATEWAY"}
	for _, n := range s.store.View().Networks() {
		row := n.Spec.Name
		if n.IPAM != nil {
			for _, c := range n.IPAM.Configs {
				row += "\t" + c.Subnet + "\t" + c.Gateway
			}
		}
		rows = append(rows, row)
	}
	return table(rows...)
}

func (s *scenario) nodes() string {
	rows := []string{"NODE\tSTATE\tMESH"}
	for _, n := range s.store.View().Nodes() {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", n.ID, n.Status.State, n.Mesh.Addr))
	}
	return table(rows...)
}

// spread prints how many tasks of a service shall run on each node.
func (s *scenario) spread(service string) string {
	count := map[string]int{}
	for _, t := range s.store.View().Tasks() {
		if t.ServiceName == service && live(t) {
			count[t.NodeID]++
		}
	}
	rows := []string{}
	for _, n := range sorted(count) {
		rows = append(rows, fmt.Sprintf("%s\t%d", or(n), count[n]))
	}
	return table(rows...)
}
