package integration

import (
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/meshswarm/meshswarm"

// maxLines is how long a file may be. A longer one has two nouns in it.
const maxLines = 500

// source is one Go file of the repository.
type source struct {
	path string // slashes, from the root
	text []byte
	tree *ast.File
	set  *token.FileSet
}

func (s source) dir() string         { return path.Dir(s.path) }
func (s source) test() bool          { return strings.HasSuffix(s.path, "_test.go") }
func (s source) line(n ast.Node) int { return s.set.Position(n.Pos()).Line }

func (s source) imports() []string {
	var list []string
	for _, i := range s.tree.Imports {
		list = append(list, strings.Trim(i.Path.Value, `"`))
	}
	return list
}

// sources parses every Go file of the repository.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || name == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		list = append(list, source{name, text, tree, set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 10 {
		t.Fatalf("found only %d Go files", len(list))
	}
	return list
}

func TestHouseGofmt(t *testing.T) {
	for _, s := range sources(t) {
		want, err := format.Source(s.text)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != string(s.text) {
			t.Errorf("%s: gofmt would change it", s.path)
		}
	}
}

func TestHouseFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if n := strings.Count(string(s.text), "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: which noun wants a file of its own?", s.path, n, maxLines)
		}
	}
}

// TestHousePackageDoc: each package has one package comment, in one file.
func TestHousePackageDoc(t *testing.T) {
	docs := map[string][]string{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		if _, known := docs[s.dir()]; !known {
			docs[s.dir()] = nil
		}
		if s.tree.Doc != nil {
			docs[s.dir()] = append(docs[s.dir()], s.path)
		}
	}
	for dir, files := range docs {
		switch len(files) {
		case 0:
			t.Errorf("package %s has no package comment: say in doc.go what it is for", dir)
		case 1:
		default:
			t.Errorf("package %s has package comments in %v: keep one", dir, files)
		}
	}
}

// room is the part of the repository that a folder belongs to: the longest entry of rooms that holds it.
func room(dir string) string {
	best := ""
	for name := range rooms {
		if (dir == name || strings.HasPrefix(dir, name+"/")) && len(name) > len(best) {
			best = name
		}
	}
	return best
}

// rooms says which rooms each room may import. This is the one-way order of ARCHITECTURE.md: cmd → agent → the others;
// within agent the sub-rooms meet only where they are listed, and none imports agent itself.
var rooms = map[string][]string{
	"cmd":            {"agent", "agent/sandbox", "sched"},
	"agent":          {"agent/api", "agent/rpc", "agent/dispatch", "agent/task", "agent/docker", "agent/sandbox", "sched", "raft", "raft/state", "mesh", "netstack", "secrets"},
	"agent/api":      {"raft/state"},
	"agent/rpc":      {"raft/state", "secrets"},
	"agent/dispatch": {"agent/rpc", "raft/state", "sched", "secrets"},
	"agent/task":     {"raft/state"},
	"agent/docker":   {"agent/task", "agent/sandbox", "raft/state"},
	"agent/sandbox":  {},
	"sched":          {"raft/state"},
	"raft":           {"raft/state"},
	"raft/state":     {},
	"mesh":           {},
	"netstack":       {},
	"secrets":        {},
	"examples":       {},
	"integration":    {},
}

// TestHouseImportOrder: a room imports only the rooms that rooms allows. Tests may also use the in-memory twins ("…test"
// packages) of other rooms, and nothing else may; integration tests may use everything.
func TestHouseImportOrder(t *testing.T) {
	for _, s := range sources(t) {
		from := room(s.dir())
		if from == "" {
			t.Errorf("%s belongs to no room: put its folder into rooms and ARCHITECTURE.md", s.path)
			continue
		}
		if s.test() && from == "integration" {
			continue
		}
		for _, imported := range s.imports() {
			rel, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if strings.HasSuffix(rel, "test") {
				if !s.test() && !strings.HasSuffix(s.dir(), "test") {
					t.Errorf("%s imports the test twin %s", s.path, rel)
				}
				continue
			}
			if to := room(rel); to != from && !slices.Contains(rooms[from], to) {
				t.Errorf("%s imports %s: room %s may import %v", s.path, rel, from, rooms[from])
			}
		}
	}
}

// forbidden lists what only some rooms may import. netstack shares WireGuard's device interface with mesh, nothing else
// of it. The last two would drag the whole engine into the program.
var forbidden = []struct {
	what  *regexp.Regexp
	rooms []string
}{
	{regexp.MustCompile(`^github\.com/hashicorp/raft(-.*)?(/|$)`), []string{"raft"}},
	{regexp.MustCompile(`^gvisor\.dev/`), []string{"netstack"}},
	{regexp.MustCompile(`^golang\.zx2c4\.com/wireguard/tun$`), []string{"mesh", "netstack"}},
	{regexp.MustCompile(`^golang\.zx2c4\.com/wireguard(/([^t]|t[^u]).*)?$`), []string{"mesh"}},
	{regexp.MustCompile(`^github\.com/docker/docker/api/server$`), nil},
	{regexp.MustCompile(`^github\.com/docker/docker/(libnetwork|daemon)(/|$)`), nil},
}

func TestHouseForbiddenImports(t *testing.T) {
	for _, s := range sources(t) {
		in := room(s.dir())
		if in == "integration" && s.test() {
			continue
		}
		for _, imported := range s.imports() {
			if !permitted(in, imported) {
				t.Errorf("%s imports %s, which room %s must not", s.path, imported, in)
			}
		}
	}
}

func permitted(room, imported string) bool {
	for _, f := range forbidden {
		if f.what.MatchString(imported) && !slices.Contains(f.rooms, room) {
			return false
		}
	}
	return true
}

// TestHouseNoSleep: tests wait by polling with a deadline. A sleep that is not the pause of a polling loop is either too
// short on a busy machine or too long.
func TestHouseNoSleep(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test() && !strings.HasSuffix(s.dir(), "test") {
			continue
		}
		for _, sleep := range sleeps(s.tree) {
			t.Errorf("%s:%d: waits by sleeping: poll with a deadline", s.path, s.line(sleep))
		}
	}
}

// sleeps finds the uses of time.Sleep outside of loops that look at a deadline.
func sleeps(tree ast.Node) []ast.Node {
	var found []ast.Node
	ast.Inspect(tree, func(n ast.Node) bool {
		if loop, ok := n.(*ast.ForStmt); ok && polls(loop) {
			return false
		}
		if isCall(n, "Sleep") {
			found = append(found, n)
		}
		return true
	})
	return found
}

// polls tells whether a loop asks what time it is.
func polls(loop *ast.ForStmt) bool {
	asks := false
	ast.Inspect(loop, func(n ast.Node) bool {
		asks = asks || isCall(n, "Now") || isCall(n, "Since")
		return !asks
	})
	return asks
}

// isCall tells whether a node is time.name.
func isCall(n ast.Node, name string) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == "time"
}

// marks are words for work left undone; spelled so that this file does not hold them.
var marks = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|not imple` + `mented)\b|panic\("contr` + `act"\)`)

func TestHouseNothingLeftUndone(t *testing.T) {
	for _, s := range sources(t) {
		for i, line := range strings.Split(string(s.text), "\n") {
			if found := marks.FindString(line); found != "" {
				t.Errorf("%s:%d: %q: do it, or say to the user what is not there", s.path, i+1, found)
			}
		}
	}
}

// TestHouseExportedDocumented: what a package exports has a comment, or stands in a group that has one: a block in
// parentheses, or functions of one line each without a gap.
func TestHouseExportedDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || s.tree.Name.Name == "main" {
			continue
		}
		covered := 0
		for _, decl := range s.tree.Decls {
			missing := undocumented(decl)
			first, last := s.line(decl), s.set.Position(decl.End()).Line
			if first == last && (len(missing) == 0 || first == covered+1) {
				// One line of a group that has a comment.
				covered = last
				continue
			}
			for _, n := range missing {
				t.Errorf("%s:%d: exported %s has no comment", s.path, s.line(n), n.Name)
			}
		}
	}
}

// undocumented gives the exported names of a declaration that have no comment.
func undocumented(decl ast.Decl) []*ast.Ident {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d.Recv) && !wellKnown[d.Name.Name]) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		if d.Doc != nil && d.Lparen.IsValid() {
			return nil
		}
		var names []*ast.Ident
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if d.Doc == nil && spec.Doc == nil && spec.Name.IsExported() {
					names = append(names, spec.Name)
				}
			case *ast.ValueSpec:
				if d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					names = append(names, slices.DeleteFunc(slices.Clone(spec.Names), func(n *ast.Ident) bool { return !n.IsExported() })...)
				}
			}
		}
		return names
	}
	return nil
}

// wellKnown are methods whose meaning the standard library fixes.
var wellKnown = map[string]bool{
	"Error": true, "String": true, "Unwrap": true, "Close": true, "Len": true, "Less": true, "Swap": true,
	"Read": true, "Write": true, "ServeHTTP": true, "MarshalJSON": true, "UnmarshalJSON": true, "MarshalText": true, "UnmarshalText": true,
}

func exportedReceiver(list *ast.FieldList) bool {
	typ := list.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return false
		}
	}
}

// reasons finds the modules that a row of ARCHITECTURE.md's table gives a reason for.
var reasons = regexp.MustCompile(`(?:^\| |, )([a-z0-9.-]+\.[a-z]+(?:/[A-Za-z0-9._-]+)+)`)

// TestHouseArchitecture: ARCHITECTURE.md names every room, and gives its reason for every module that is imported and for
// no other.
func TestHouseArchitecture(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range rooms {
		if !strings.Contains(string(text), "`"+name) {
			t.Errorf("ARCHITECTURE.md does not name room %s", name)
		}
	}
	modules := requiredModules(t)
	seen := map[string]bool{}
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			for _, m := range modules {
				if (imported == m || strings.HasPrefix(imported, m+"/")) && !seen[m] {
					seen[m] = true
					if !strings.Contains(string(text), m) {
						t.Errorf("ARCHITECTURE.md has no reason for %s, which %s imports", m, s.path)
					}
				}
			}
		}
	}
	_, table, _ := strings.Cut(string(text), "## Direct dependencies")
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		row, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		for _, m := range reasons.FindAllStringSubmatch("| "+row, -1) {
			if !seen[m[1]] {
				t.Errorf("ARCHITECTURE.md gives a reason for %s, which nothing imports", m[1])
			}
		}
	}
}

// requiredModules lists what go.mod requires, directly or not.
func requiredModules(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) >= 2 && strings.HasPrefix(words[1], "v") && strings.Contains(words[0], ".") {
			list = append(list, words[0])
		}
	}
	if len(list) < 10 {
		t.Fatalf("found only %d modules in go.mod", len(list))
	}
	return list
}
