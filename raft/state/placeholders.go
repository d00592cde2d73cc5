package state

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"github.com/docker/docker/api/types/swarm"
)

// maxExpanded is what a template may grow to.
const maxExpanded = 64 << 10

// Placeholders are what the templates of a service (host name, environment, mounts) may name, as in Swarm.
type Placeholders struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     struct{ Architecture, OS string }
	}
	Task struct{ ID, Name, Slot string }
}

// NewPlaceholders are those of a task that has its node. labels are its service's.
func NewPlaceholders(t *Task, labels map[string]string, hostname string, platform swarm.Platform) Placeholders {
	var p Placeholders
	p.Service.ID, p.Service.Name, p.Service.Labels = t.ServiceID, t.ServiceName, labels
	p.Node.ID, p.Node.Hostname = t.NodeID, hostname
	p.Node.Platform.Architecture, p.Node.Platform.OS = platform.Architecture, platform.OS
	p.Task.ID, p.Task.Name, p.Task.Slot = t.ID, t.Name(), strconv.Itoa(t.Slot)
	if t.Slot == 0 {
		p.Task.Slot = t.NodeID
	}
	return p
}

// Expand fills the placeholders of a text in. What names something unknown is an error.
func (p Placeholders) Expand(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"join": func(sep string, words ...string) string { return strings.Join(words, sep) },
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&limited{&b}, p); err != nil {
		return "", err
	}
	return b.String(), nil
}

// limited refuses what a template should never grow to.
type limited struct{ *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxExpanded {
		return 0, fmt.Errorf("the result is larger than %d bytes", maxExpanded)
	}
	return l.Buffer.Write(p)
}
