package state

import (
	"testing"

	"github.com/docker/docker/api/types/swarm"
)

func TestPlaceholders(t *testing.T) {
	task := Task{ServiceID: "s1", ServiceName: "web", Slot: 3, NodeID: "n1"}
	task.ID = "t1"
	p := NewPlaceholders(&task, map[string]string{"a.b": "v"}, "host1", swarm.Platform{Architecture: "x86_64", OS: "linux"})
	for _, c := range []struct{ in, want string }{
		{"plain {x}", "plain {x}"},
		{"{{.Service.Name}}-{{.Task.Slot}}", "web-3"},
		{"{{.Service.ID}} {{.Task.ID}} {{.Task.Name}} {{.Node.ID}}", "s1 t1 web.3.t1 n1"},
		{"{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/x86_64"},
		{`{{index .Service.Labels "a.b"}}`, "v"},
		{`{{join "-" .Service.Name .Node.Hostname}}`, "web-host1"},
	} {
		if got, err := p.Expand(c.in); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v", c.in, got, err)
		}
	}
	for _, in := range []string{"{{", "{{.No.Such}}", "{{.Service.Labels.missing}}", `{{printf "%70000s" "x"}}`} {
		if got, err := p.Expand(in); err == nil {
			t.Errorf("%s: got %d bytes and no error", in, len(got))
		}
	}
}
