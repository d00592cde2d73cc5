package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/docker/cli/templates"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/docker/go-units"
)

const inspectUsage = `Format the output: "json" or a Go template`

// inspect prints what get finds under each name: a JSON array, or the template once per object. get returns the
// object in its Go type and as the node sent it; a template reads the first, and the second when a field is only
// there.
func (p *program) inspect(names []string, format string, get func(name string) (any, []byte, error)) error {
	render, err := inspectRenderer(format)
	if err != nil {
		return &statusError{64, err}
	}
	var out []json.RawMessage
	var failures []error
	for _, name := range names {
		object, raw, err := get(name)
		if client.IsErrConnectionFailed(err) {
			return err
		}
		if err == nil && render != nil {
			err = render(p, object, raw)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		out = append(out, raw)
	}
	if err := p.printInspected(out, format); err != nil {
		return err
	}
	return errors.Join(failures...)
}

func (p *program) printInspected(objects []json.RawMessage, format string) error {
	if objects == nil {
		objects = []json.RawMessage{}
	}
	var text []byte
	var err error
	switch format {
	case "":
		text, err = json.MarshalIndent(objects, "", "    ")
	case "json":
		text, err = json.Marshal(objects)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.out, string(text))
	return err
}

// prettyFuncs are the words that the templates of --pretty have for amounts, as the docker command writes them.
var prettyFuncs = template.FuncMap{
	"cpus": func(nano int64) string { return strconv.FormatFloat(float64(nano)/1e9, 'f', -1, 64) },
	// value is what a pointer points to.
	"value": func(p any) any {
		if v := reflect.Indirect(reflect.ValueOf(p)); v.IsValid() {
			return v.Interface()
		}
		return nil
	},
	"memory":    func(bytes int64) string { return units.BytesSize(float64(bytes)) },
	"resources": resourceList,
	"plugins": func(list []swarm.PluginDescription) map[string][]string {
		byType := map[string][]string{}
		for _, plugin := range list {
			byType[plugin.Type] = append(byType[plugin.Type], plugin.Name)
		}
		return byType
	},
	"ago": func(t time.Time) string { return strings.ToLower(units.HumanDuration(time.Since(t))) + " ago" },
}

// inspectRenderer is nil when no template was asked for.
func inspectRenderer(format string) (func(p *program, object any, raw []byte) error, error) {
	if format == "" || format == "json" {
		return nil, nil
	}
	tmpl, err := templates.New("").Funcs(prettyFuncs).Parse(format)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return func(p *program, object any, raw []byte) error {
		var text bytes.Buffer
		if err := tmpl.Execute(&text, object); err != nil {
			var loose any
			decoder := json.NewDecoder(bytes.NewReader(raw))
			decoder.UseNumber()
			if decoder.Decode(&loose) != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
			text.Reset()
			if err := tmpl.Option("missingkey=error").Execute(&text, loose); err != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
		}
		_, err := fmt.Fprintln(p.out, text.String())
		return err
	}, nil
}
