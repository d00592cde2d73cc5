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
	case "report": // report SERVICE.SLOT|SERVICE.NODE|TASK STATE message
		id := f[1]
		if name, place, ok := strings.Cut(id, "."); ok {
			id = s.taskAt(name, place).ID
		}
		s.report(id, swarm.TaskState(f[2]), strings.Join(f[3:], " "))
		s.settle()
	case "finish": // finish SERVICE: the job's tasks that run come to their end
		for _, t := range s.store.View().TasksByService(s.store.View().ServiceByName(f[1]).ID) {
			if live(t) && t.Status.State == swarm.TaskStateRunning {
				s.report(t.ID, swarm.TaskStateComplete, "finished")
			}
		}
		s.settle()
	case "crash": // crash SERVICE.SLOT|SERVICE.NODE TIMES: it fails at once, time after time; prints how long each restart took
		return s.crash(f[1], f[2])
	case "rollback":
		s.rollback(f[1])
	case "history": // history LIMIT: how many tasks a place keeps
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		c := s.store.View().Cluster().Clone()
		c.Spec.Orchestration.TaskHistoryRetentionLimit = &n
		s.apply(state.Op{Action: state.Update, Object: c, Expected: c.Modified})
	case "rebalance":
		return s.rebalance(f[1])
	case "explain":
		return s.explain(f[1])
	case "tasks":
		return s.tasks(arg(1))
	case "services":
		return s.services()
	case "networks":
		return s.networks()
	case "nodes":
		return s.nodes()
	case "spec": // what the service shall be, and what it was before
		v := s.store.View().ServiceByName(f[1])
		before := "none"
		if p := v.PreviousSpec; p != nil {
			before = fmt.Sprintf("%s ×%d", p.TaskTemplate.ContainerSpec.Image, *p.Mode.Replicated.Replicas)
		}
		return fmt.Sprintf("%s ×%d, before: %s\n", v.Spec.TaskTemplate.ContainerSpec.Image, *v.Spec.Mode.Replicated.Replicas, before)
	case "spread":
		return s.spread(f[1])
	default:
		s.t.Fatalf("unknown command %q", f)
	}
	return ""
}

// crash has the task of a place fail as soon as it runs, and tells how long it took each time until the next one ran.
func (s *scenario) crash(place, times string) string {
	name, at, _ := strings.Cut(place, ".")
	n, _ := strconv.Atoi(times)
	var waits []string
	for range n {
		t := s.taskAt(name, at)
		s.report(t.ID, swarm.TaskStateFailed, "crash")
		s.work()
		from, wait := s.clock.Now(), "for ever"
		for s.clock.Now().Sub(from) < time.Hour {
			if i := s.mind.board.service(t.ServiceID).standers(t.Place()); len(i) > 0 && i[0].Status.State == swarm.TaskStateRunning {
				wait = s.clock.Now().Sub(from).String()
				break
			}
			s.advance(time.Second)
			s.work()
		}
		waits = append(waits, wait)
	}
	return "restarted after " + strings.Join(waits, ", ") + "\n"
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
	n.Description.Engine.Plugins = enginePlugins(o["plugin"])
	n.Description.Engine.Labels = map[string]string{}
	for _, l := range o["engine"] {
		k, v, _ := strings.Cut(l, "=")
		n.Description.Engine.Labels[k] = v
	}
	for _, g := range o["gpu"] {
		n.Description.Resources.GenericResources = append(n.Description.Resources.GenericResources,
			swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "GPU", Value: g}})
	}
	n.Status.Addr = one(o, "addr", "")
	n.MinPort = uint16(number(o, "minport", 0))
	for _, p := range o["host"] {
		n.HostPrefixes = append(n.HostPrefixes, netip.MustParsePrefix(p))
	}
	n.Status.State = swarm.NodeState(one(o, "state", "ready"))
	if down(n) && n.Down.IsZero() {
		n.Down = s.clock.Now()
		n.Downs = append(n.Downs, n.Down)
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
		if c := comparePlaces(a.Place(), b.Place()); c != 0 {
			return c
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
		version := strconv.FormatUint(t.SpecVersion, 10)
		if t.DesiredState == swarm.TaskStateComplete || t.Iteration > 0 {
			version += fmt.Sprintf("@%d", t.Iteration)
		}
		rows = append(rows, fmt.Sprintf("%s.%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", t.ServiceName, placeName(t.Place()), t.ID, version, or(t.NodeID), t.DesiredState,
			t.Status.State, or(strings.Join(addrs, ",")), message))
	}
	return table(rows...)
}

func placeName(p state.Place) string {
	if p.Slot > 0 {
		return strconv.Itoa(p.Slot)
	}
	return p.NodeID
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
