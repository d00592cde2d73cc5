package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"github.com/meshswarm/meshswarm/raft/state"
)

// toServer is a round tripper that ends at a test server, whatever the address.
type toServer struct {
	url   string
	calls atomic.Int32
}

func (s *toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.calls.Add(1)
	if r.URL.Scheme != "https" || r.URL.Host != "192.0.2.1:2377" {
		return nil, &url.Error{Op: "forward", URL: r.URL.String(), Err: io.ErrUnexpectedEOF}
	}
	u, _ := url.Parse(s.url)
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
	return http.DefaultTransport.RoundTrip(r)
}

// pair is a leader and a follower whose store gets the leader's commits.
func pair(t *testing.T) (leader, follower *fakeCluster, c *client.Client, rt *toServer) {
	t.Helper()
	leader = newFakeCluster(t)
	ls, _ := start(t, Config{
		Local:         managerNode(leader),
		Explain:       func(_ state.View, id string, _ time.Time) (any, error) { return id, nil },
		PlanRebalance: func(state.View, string, time.Time) ([]Move, error) { return []Move{{TaskID: "t1", Slot: 1}}, nil },
	})
	hs := httptest.NewServer(ls.Handler())
	t.Cleanup(func() { http.DefaultTransport.(*http.Transport).CloseIdleConnections() })
	t.Cleanup(hs.Close)
	follower = newFakeCluster(t)
	follower.self = testWorker
	replicate(t, leader, follower)
	rt = &toServer{url: hs.URL}
	l := managerNode(follower)
	l.status.NodeID = testWorker
	_, c = start(t, Config{Local: l, Forward: rt})
	return leader, follower, c, rt
}

// replicate applies the leader's later commits to the follower.
func replicate(t *testing.T, leader, follower *fakeCluster) {
	t.Helper()
	_, w := leader.store.ViewAndWatch()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		defer w.Close()
		for {
			commits, err := w.Next(ctx)
			if err != nil {
				return
			}
			for _, commit := range commits {
				var b state.Batch
				for _, ch := range commit.Changes {
					op := state.Op{Action: state.Create, Object: ch.New}
					if ch.Old != nil {
						op = state.Op{Action: state.Update, Object: ch.New, Expected: ch.Old.Head().Modified, SpecChange: true}
					}
					b.Ops = append(b.Ops, op)
				}
				if err := follower.store.Apply(commit.Index, b); err != nil {
					t.Errorf("replicate: %v", err)
				}
			}
		}
	}()
}

func TestForward(t *testing.T) {
	leader, follower, c, rt := pair(t)
	id := create(t, c, spec("web"))
	if leader.store.View().Service(id) == nil {
		t.Fatal("not at the leader")
	}
	if follower.store.View().Service(id) == nil {
		t.Error("the follower did not wait for its own store")
	}
	if s := inspect(t, c, "web"); s.ID != id {
		t.Errorf("inspect: %v", s.ID)
	}
	_, _, err := c.ServiceInspectWithRaw(t.Context(), "none", swarm.ServiceInspectOptions{})
	wantError(t, err, cerrdefs.IsNotFound, "service none not found")
	if code, _, text := raw(t, socketOf(c), http.MethodGet, "/meshswarm/services/web/explain", ""); code != 200 || strings.TrimSpace(text) != `"`+id+`"` {
		t.Errorf("explain: %d %s", code, text)
	}
	if code, _, text := raw(t, socketOf(c), http.MethodPost, "/meshswarm/services/web/rebalance", ""); code != 200 || follower.store.View().Service(id).Rebalance == nil {
		t.Errorf("rebalance: %d %s", code, text)
	}
	n, err := c.NetworkCreate(t.Context(), "back", network.CreateOptions{Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.NetworkInspect(t.Context(), "back", network.InspectOptions{}); err != nil || got.ID != n.ID {
		t.Errorf("own store after a forwarded create: %v, %v", got.ID, err)
	}
	if err := c.NetworkRemove(t.Context(), "back"); err != nil {
		t.Errorf("remove network: %v", err)
	}
	_, err = c.NetworksPrune(t.Context(), filters.NewArgs())
	wantError(t, err, cerrdefs.IsUnavailable, "container engine") // the swarm's part went through
	leader.onLogs(func(context.Context, string, string, LogOptions) (io.ReadCloser, bool, error) {
		return io.NopCloser(strings.NewReader(string(engineLog("out:far")))), false, nil
	})
	addTask(t, leader, id, "task1", 1, swarm.TaskStateRunning, swarm.TaskStateRunning)
	rc, err := c.ServiceLogs(t.Context(), "web", container.LogsOptions{ShowStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := readAll(t, rc); err != nil || out != "far\n" {
		t.Errorf("logs: %q, %v", out, err)
	}
	if err := c.ServiceRemove(t.Context(), "web"); err != nil { // an answer without a body
		t.Fatal(err)
	}
	if !follower.store.View().Service(id).PendingDelete {
		t.Error("the follower did not wait after the removal")
	}
	before := rt.calls.Load()
	if info, err := c.Info(t.Context()); err != nil || info.Swarm.NodeID != testWorker || rt.calls.Load() != before {
		t.Errorf("info must not be forwarded: %v, %v", info.Swarm.NodeID, err)
	}
}

func TestForwardWithoutLeader(t *testing.T) {
	leader, follower, c, rt := pair(t)
	// The leader lost its office; the follower becomes leader while the request waits.
	leader.setLeader("")
	errs := make(chan error, 1)
	go func() {
		_, err := c.ServiceCreate(t.Context(), spec("web"), swarm.ServiceCreateOptions{})
		errs <- err
	}()
	waitFor(t, "the first try", func() bool { return rt.calls.Load() > 0 })
	follower.setLeader(testWorker)
	if err := <-errs; err != nil {
		t.Errorf("create across an election: %v", err)
	}
	if follower.store.View().ServiceByName("web") == nil {
		t.Error("not created here")
	}
	if testing.Short() {
		return
	}
	follower.setLeader("")
	_, err := c.ServiceList(t.Context(), swarm.ServiceListOptions{})
	wantError(t, err, cerrdefs.IsUnavailable, "The swarm does not have a leader")
}

func TestForwardedRequests(t *testing.T) {
	fc := newFakeCluster(t)
	s, _ := start(t, Config{Local: managerNode(fc)})
	do := func(method, path, body string) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(method, ForwardPrefix+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		s.Handler().ServeHTTP(rec, r)
		return rec
	}
	for _, tt := range []struct {
		method, path, body string
		code               int
	}{
		{"GET", "/v1.51/services", "", 200}, {"POST", "/v1.51/networks/prune", "", 200},
		{"POST", "/v1.51/swarm/leave", "", 404}, {"GET", "/v1.51/info", "", 404}, {"GET", "/containers/json", "", 404}, {"GET", "/images/json", "", 404},
		{"POST", "/v1.51/networks/create", `{"Name":"x","Driver":"bridge"}`, 404}, {"POST", "/networks/ingress/connect", `{}`, 404},
		{"DELETE", "/networks/mine", "", 404},
	} {
		rec := do(tt.method, tt.path, tt.body)
		if rec.Code != tt.code {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, rec.Code, rec.Body)
		}
		if rec.Header().Get(indexHeader) == "" {
			t.Errorf("%s %s: no index", tt.method, tt.path)
		}
	}
	fc.setLeader(testWorker)
	if rec := do("GET", "/v1.51/services", ""); rec.Code != 503 || rec.Header().Get(notLeaderHeader) == "" {
		t.Errorf("not the leader: %d %v", rec.Code, rec.Header())
	}
}
