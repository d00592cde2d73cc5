package sim

import (
	"bytes"
	"net"
	netrpc "net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// process is the process of the nodes, seen from that of the managers.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	client *netrpc.Client
	output bytes.Buffer
}

// startProcess starts this test's program once more, as the nodes.
func startProcess(t *testing.T) *process {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nodes")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := &process{t: t, cmd: exec.Command(os.Args[0], "-test.run=^TestNodes$", "-test.timeout=0")}
	p.cmd.Env = append(os.Environ(), nodesEnv+"="+path)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = ln.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := ln.Accept()
	if err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		t.Fatalf("the nodes' process does not come: %v\n%s", err, p.output.String())
	}
	p.client = jsonrpc.NewClient(conn)
	return p
}

// stop ends all nodes and their process, which fails when something of them does not end as it should.
func (p *process) stop() {
	p.t.Helper()
	_ = p.client.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the nodes' process: %v\n%s", err, p.output.String())
	}
}

// call asks the nodes.
func (p *process) call(method string, args, reply any) {
	p.t.Helper()
	if err := p.client.Call("Nodes."+method, args, reply); err != nil {
		p.t.Fatalf("nodes: %s: %v", method, err)
	}
}

// do does something to nodes.
func (p *process) do(kind string, nodes []int) {
	p.t.Helper()
	p.call("Do", Deed{kind, nodes}, &struct{}{})
}

// look asks how the nodes are.
func (p *process) look() (l Look) {
	p.t.Helper()
	p.call("Look", struct{}{}, &l)
	return l
}

// glance is look for any goroutine.
func (p *process) glance() (l Look) {
	if err := p.client.Call("Nodes.Look", struct{}{}, &l); err != nil {
		p.t.Errorf("nodes: %v", err)
	}
	return l
}

// upTo lists the numbers below n.
func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}
