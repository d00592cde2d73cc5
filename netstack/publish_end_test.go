package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// answerAndEnd accepts connections, sends each answer whole and is done with it.
func (t *testTask) answerAndEnd(tb testing.TB, port uint16, answer []byte) (answered <-chan struct{}) {
	tb.Helper()
	ln, err := t.listenTCP(netip.AddrPortFrom(t.addr, port))
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{}, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = c.Write(answer)
				_ = c.(*stackConn).CloseWrite()
				done <- struct{}{}
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	})
	tb.Cleanup(func() { _ = ln.Close(); t.abortAll(); wg.Wait() })
	return done
}

// What a task sent before its end reaches a slow client after the task has left the tables.
func TestPublishLastWords(t *testing.T) {
	for _, place := range []string{"local", "remote"} {
		t.Run(place, func(t *testing.T) {
			w, n1, n2, t1, t2 := twoNodes(t)
			answer := bytes.Repeat([]byte("0123456789abcdef"), 96<<10/16)
			b, answered := backend(t1, n1), t1.answerAndEnd(t, 80, answer)
			if place == "remote" {
				b, answered = backend(t2, n2), t2.answerAndEnd(t, 80, answer)
			}
			port := freePort(t, "tcp")
			w.publish("tcp", port, b)
			c := dialPublished(t, port)
			_ = c.SetReadBuffer(4096)
			first := make([]byte, 1)
			if _, err := io.ReadFull(c, first); err != nil {
				t.Fatal(err)
			}
			<-answered
			eventually(t, "the answer is on its way", func() bool { return taskEnded(n1, b.Addr) || taskEnded(n2, b.Addr) })
			w.publish("tcp", port)
			rest, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(append(first, rest...), answer) {
				t.Errorf("%d bytes of %d: %v", 1+len(rest), len(answer), err)
			}
		})
	}
}

// taskEnded tells whether a node has the end of a task's answer.
func taskEnded(n *testNode, task netip.Addr) bool {
	for _, e := range n.host.live.Load().ip.RegisteredEndpoints() {
		ep, ok := e.(tcpip.Endpoint)
		if !ok {
			continue
		}
		if to, err := ep.GetRemoteAddress(); err == nil && netipAddr(to.Addr) == task && tcp.EndpointState(ep.State()) == tcp.StateCloseWait {
			return true
		}
	}
	return false
}

// A node that hears later than others that its task serves is asked again: the client only waits.
func TestPublishTaskIsNews(t *testing.T) {
	w, n1, n2, _, t2 := twoNodes(t)
	t2.echoTCP(t, 80)
	port := freePort(t, "tcp")
	n1.set(&Tables{Networks: []Network{w.testNetwork(n1.self)}, Ports: []Port{
		{Protocol: "tcp", Port: port, Target: 80, Backends: []PortBackend{backend(t2, n2)}},
	}})
	n2.set(&Tables{Networks: []Network{w.testNetwork(n2.self)}})
	late := time.AfterFunc(4*newsPause, func() { w.publish("tcp", port, backend(t2, n2)) })
	defer late.Stop()
	if task, _ := who(t, dialPublished(t, port)); task != "10.1.0.11" {
		t.Errorf("served by %q", task)
	}
}

// A task that has just started and does not listen yet costs its first client some time, and one that never listens no more than that.
func TestPublishTaskStarts(t *testing.T) {
	w, n1, _, t1, _ := twoNodes(t)
	port := freePort(t, "tcp")
	w.publish("tcp", port, backend(t1, n1))
	late := time.AfterFunc(4*newsPause, func() { t1.echoTCP(t, 80) })
	defer late.Stop()
	if task, _ := who(t, dialPublished(t, port)); task != "10.1.0.10" {
		t.Errorf("served by %q", task)
	}
}

// A client that waits for a backend gets one that came meanwhile, and none that drains meanwhile.
func TestPublishTablesChangeWhileDialling(t *testing.T) {
	w, n1, _, t1, t2 := twoNodes(t)
	t1.echoTCP(t, 80)
	t2.echoTCP(t, 80)
	port := freePort(t, "tcp")
	deaf := w.task(n1, "10.1.0.12")
	delete(w.tasks, deaf.addr) // its packets are lost
	p := PortBackend{Addr: deaf.addr, Node: n1.self}
	w.publish("tcp", port, p)
	change := time.AfterFunc(taskDialTimeout/4, func() {
		p.Draining = true
		w.publish("tcp", port, p, backend(t1, n1))
	})
	defer change.Stop()
	if task, _ := who(t, dialPublished(t, port)); task != "10.1.0.10" {
		t.Errorf("served by %q", task)
	}
}
