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

func TestGofmt(t *testing.T) {
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

func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if n := strings.Count(string(s.text), "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: which noun wants a file of its own?", s.path, n, maxLines)
		}
	}
}

// TestPackageDoc: each package has one package comment, in one file.
func TestPackageDoc(t *testing.T) {
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
	"cmd":            {"agent", "agent/sandbox"},
	"agent":          {"agent/api", "agent/rpc", "agent/dispatch", "agent/task", "agent/docker", "agent/sandbox", "sched", "raft", "raft/state", "mesh", "netstack", "secrets"},
	"agent/api":      {"raft/state"},
	"agent/rpc":      {"raft/state", "secrets"},
	"agent/dispatch": {"raft/state", "sched", "secrets"},
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

// TestImportOrder: a room imports only the rooms that rooms allows. Tests may also use the in-memory twins ("…test"
// packages) of the rooms that their room may import; integration tests may use everything.
func TestImportOrder(t *testing.T) {
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
			to := room(rel)
			if to != from && !slices.Contains(rooms[from], to) {
				t.Errorf("%s imports %s: room %s may import %v", s.path, rel, from, rooms[from])
			}
			if strings.HasSuffix(rel, "test") && !s.test() && !strings.HasSuffix(s.dir(), "test") {
				t.Errorf("%s imports the test twin %s", s.path, rel)
			}
		}
	}
}

// forbidden lists what only some rooms may import.
var forbidden = []struct {
	what  *regexp.Regexp
	rooms []string
	why   string
}{
	{regexp.MustCompile(`^github\.com/hashicorp/raft(-.*)?(/|$)`), []string{"raft"}, "only raft knows hashicorp/raft"},
	{regexp.MustCompile(`^gvisor\.dev/`), []string{"netstack"}, "only netstack knows gVisor"},
	{regexp.MustCompile(`^golang\.zx2c4\.com/wireguard/tun$`), []string{"mesh", "netstack"}, "only mesh and netstack share WireGuard's device interface"},
	{regexp.MustCompile(`^golang\.zx2c4\.com/wireguard(/([^t]|t[^u]).*)?$`), []string{"mesh"}, "only mesh knows WireGuard"},
	{regexp.MustCompile(`^github\.com/docker/docker/api/server$`), nil, "it drags in the whole engine; take its sub-packages"},
	{regexp.MustCompile(`^github\.com/docker/docker/(libnetwork|daemon)(/|$)`), nil, "it drags in the whole engine"},
}

func TestForbiddenImports(t *testing.T) {
	for _, s := range sources(t) {
		top := room(s.dir())
		for _, imported := range s.imports() {
			for _, f := range forbidden {
				if f.what.MatchString(imported) && !slices.Contains(f.rooms, top) && !(top == "integration" && s.test()) {
					t.Errorf("%s imports %s: %s", s.path, imported, f.why)
				}
			}
		}
	}
}

// TestNoSleep: tests wait by polling with a deadline. A sleep is either too short on a busy machine or too long.
func TestNoSleep(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test() && !strings.HasSuffix(s.dir(), "test") {
			continue
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s:%d: waits by sleeping: poll with a deadline", s.path, s.line(sel))
				}
			}
			return true
		})
	}
}

// marks are words for work left undone; spelled so that this file does not hold them.
var marks = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|not imple` + `mented)\b|panic\("contr` + `act"\)`)

func TestNothingLeftUndone(t *testing.T) {
	for _, s := range sources(t) {
		for i, line := range strings.Split(string(s.text), "\n") {
			if found := marks.FindString(line); found != "" {
				t.Errorf("%s:%d: %q: do it, or say to the user what is not there", s.path, i+1, found)
			}
		}
	}
}

// TestExportedDocumented: what a package exports has a comment that begins with its name (or its group has one).
func TestExportedDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || s.tree.Name.Name == "main" {
			continue
		}
		for _, decl := range s.tree.Decls {
			for _, n := range undocumented(decl) {
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

// TestTestsHaveNoFolderOfTheirOwn: every file named in ARCHITECTURE.md's map is there.
func TestArchitectureNamesEveryRoom(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range rooms {
		if !strings.Contains(string(text), name) {
			t.Errorf("ARCHITECTURE.md does not name room %s", name)
		}
	}
}
