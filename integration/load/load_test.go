package load_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshswarm/meshswarm/integration/load"
)

// Each request is counted, as what it was.
func TestRun(t *testing.T) {
	for name, keep := range map[string]bool{"new connections": false, "kept connections": true} {
		t.Run(name, func(t *testing.T) {
			var served, conns atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served.Add(1)
				if r.URL.Path == "/bad" {
					w.WriteHeader(http.StatusBadGateway)
				}
				_, _ = w.Write([]byte("x"))
			}))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					conns.Add(1)
				}
			}
			srv.Start()
			defer srv.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r := load.Run(ctx, load.Config{URLs: []string{srv.URL, srv.URL + "/bad"}, Rate: 100, Workers: 4, KeepAlive: keep})
			if r.Sent < 10 || int(served.Load()) != r.Sent || r.Failed < r.Sent/2-2 || r.Failed > r.Sent/2+2 || len(r.Errors) == 0 {
				t.Errorf("%v; %d served", r, served.Load())
			}
			if shared := conns.Load() < served.Load()/2; shared != keep {
				t.Errorf("%d connections", conns.Load())
			}
		})
	}
}
