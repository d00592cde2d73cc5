package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// TestHouseRulesBite: the rules find what they are for.
func TestHouseRulesBite(t *testing.T) {
	parse := func(text string) *ast.File {
		t.Helper()
		tree, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	for _, c := range []struct {
		name, text string
		want       int
	}{
		{"plain", "func f() { time.Sleep(1) }", 1},
		{"in a loop without a deadline", "func f() { for range 3 { time.Sleep(1) } }", 1},
		{"polling", "func f() { for !ok() { if time.Now().After(end) { return }; time.Sleep(1) } }", 0},
	} {
		if got := len(sleeps(parse(c.text))); got != c.want {
			t.Errorf("%s: found %d sleeps, not %d", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name, text string
		want       int
	}{
		{"function", "func F() {}", 1},
		{"with comment", "// F does.\nfunc F() {}", 0},
		{"not exported", "func f() {}", 0},
		{"method of an exported type", "func (t *T) M() {}", 1},
		{"method of another", "func (t *u) M() {}", 0},
		{"of the standard library", "func (t *T) String() string { return \"\" }", 0},
		{"type", "type T struct{}", 1},
		{"values", "const A, b = 1, 2", 1},
		{"group", "// Kinds.\nconst (\nA = 1\nB = 2\n)", 0},
	} {
		if got := len(undocumented(parse(c.text).Decls[0])); got != c.want {
			t.Errorf("%s: found %d names without comment, not %d", c.name, got, c.want)
		}
	}
	for _, text := range []string{"// TO" + "DO: later", `panic("contr` + `act")`, "errors.New(\"not imple" + "mented\")"} {
		if !marks.MatchString(text) {
			t.Errorf("%q passes", text)
		}
	}
	for imported, allowed := range map[string]string{
		"github.com/hashicorp/raft": "raft", "github.com/hashicorp/raft-boltdb/v2": "raft", "gvisor.dev/gvisor/pkg/tcpip": "netstack",
		"golang.zx2c4.com/wireguard/device": "mesh", "golang.zx2c4.com/wireguard/tun": "netstack",
		"github.com/docker/docker/api/server": "", "github.com/docker/docker/libnetwork/ipam": "",
	} {
		if permitted("sched", imported) || allowed != "" && !permitted(allowed, imported) {
			t.Errorf("%s is not only for %q", imported, allowed)
		}
	}
	if permitted("netstack", "golang.zx2c4.com/wireguard/device") || !permitted("agent/api", "github.com/docker/docker/api/server/router/swarm") {
		t.Error("the rules for wireguard and for Docker's server are wrong")
	}
	for dir, want := range map[string]string{"agent": "agent", "agent/api": "agent/api", "raft/rafttest": "raft", "cmd/meshswarm": "cmd", "elsewhere": ""} {
		if got := room(dir); got != want {
			t.Errorf("%s is in room %q, not %q", dir, got, want)
		}
	}
}
