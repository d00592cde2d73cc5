package docker_test

import (
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"

	"github.com/docker/docker/client"
)

// proxy stands between an executor and its engine, and can go away.
type proxy struct {
	upstream string
	path     string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	wg       sync.WaitGroup
}

// throughProxy returns a client that reaches the engine through a proxy.
func throughProxy(t *testing.T, api *client.Client) (*client.Client, *proxy) {
	t.Helper()
	u, err := url.Parse(api.DaemonHost())
	if err != nil || u.Scheme != "unix" {
		t.Skipf("the engine is not on a unix socket: %s", api.DaemonHost())
	}
	p := &proxy{upstream: u.Path, path: filepath.Join(t.TempDir(), "engine.sock"), conns: map[net.Conn]bool{}}
	p.setAway(t, false)
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+p.path), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		p.setAway(t, true)
		p.wg.Wait()
	})
	return c, p
}

func (p *proxy) setAway(t *testing.T, away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if away {
		if p.listener != nil {
			p.listener.Close()
			p.listener = nil
		}
		for c := range p.conns {
			c.Close()
		}
		return
	}
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Error(err)
		return
	}
	p.listener = l
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(c) })
		}
	})
}

func (p *proxy) carry(c net.Conn) {
	up, err := net.Dial("unix", p.upstream)
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	if p.listener == nil {
		c.Close()
	}
	p.conns[c], p.conns[up] = true, true
	p.mu.Unlock()
	p.wg.Go(func() { pipe(c, up) })
	pipe(up, c)
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, up)
	p.mu.Unlock()
}

func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if w, ok := to.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	_ = from.(interface{ CloseRead() error }).CloseRead()
}
