package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"meshswarm": main,
		// The same program with a stand-in for the node, see stubnode_test.go.
		"stubswarm": func() { os.Exit(run(os.Args, stubNode)) },
	})
}

// TestScripts runs testdata/script: command lines, what they ask the node (a fakeNode that answers from the script's
// api folder) and what they print.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		// UPDATE_SCRIPTS=1 go test rewrites what cmp compares with.
		UpdateScripts:      os.Getenv("UPDATE_SCRIPTS") != "",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			// Short, because a socket's path must be.
			dir, err := os.MkdirTemp("", "ms")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			socket := filepath.Join(dir, "s")
			node, err := startFakeNode(socket, filepath.Join(env.WorkDir, "api"))
			if err != nil {
				return err
			}
			env.Defer(node.stop)
			env.Values[fakeNodeKey{}] = node
			env.Setenv(hostEnv, "unix://"+socket)
			env.Setenv("SHORT", dir)
			// The race detector would wait a second at the end of every command.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_RUNTIME_DIR", dir)
			env.Setenv("XDG_STATE_HOME", dir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// requests FILE writes the requests since the last time.
			"requests": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: requests FILE")
				}
				node := ts.Value(fakeNodeKey{}).(*fakeNode)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), node.take(), 0o600))
			},
		},
	})
}

type fakeNodeKey struct{}
