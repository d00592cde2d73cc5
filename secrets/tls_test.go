package secrets

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// handshake runs both sides and gives the errors of both after one byte each way (TLS 1.3 refuses a client only then).
func handshake(t *testing.T, server, client *tls.Config) (cs, ss tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	_ = a.SetDeadline(deadline)
	_ = b.SetDeadline(deadline)
	sc, cc := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := sc.Handshake()
		if err == nil {
			_, err = sc.Write([]byte{1})
		}
		ss = sc.ConnectionState()
		_ = a.Close()
		done <- err
	}()
	clientErr = cc.Handshake()
	if clientErr == nil {
		_, clientErr = cc.Read(make([]byte, 1))
	}
	cs = cc.ConnectionState()
	_ = b.Close()
	return cs, ss, clientErr, <-done
}

func TestTLS(t *testing.T) {
	a, b := mustAuthority(t), mustAuthority(t)
	now := time.Now()
	manager := mustIdentity(t, a, "manager1", RoleManager, now, time.Hour)
	worker := mustIdentity(t, a, "worker1", RoleWorker, now, time.Hour)
	foreign := mustIdentity(t, b, "manager1", RoleManager, now, time.Hour)
	expired := mustIdentity(t, a, "old", RoleManager, now.Add(-30*time.Minute), time.Minute)
	early := *mustIdentity(t, a, "early", RoleManager, now, time.Hour)
	early.now = func() time.Time { return now.Add(-30 * time.Minute * 3) }
	elsewhere := *manager
	elsewhere.peer.SwarmID = "swarm2"

	join, err := JoinTLS(a.CertPEM(), "h2")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name           string
		server, client *tls.Config
		clientErr      error  // errors.Is
		clientText     string // or this in its text
		serverText     string
		peer           string
	}{
		{name: "manager to manager", server: manager.ServerTLS("h2"), client: manager.ClientTLS("h2"), peer: "manager1"},
		{name: "worker to manager", server: manager.ServerTLS("h2"), client: worker.ClientTLS("h2"), peer: "worker1"},
		{name: "no certificate", server: manager.ServerTLS("h2"), client: join},
		{name: "unverified", server: manager.ServerTLS("h2"), client: UnverifiedTLS("h2")},
		{name: "worker serves", server: worker.ServerTLS("h2"), client: manager.ClientTLS("h2"), clientErr: ErrRole},
		{name: "foreign server", server: foreign.ServerTLS("h2"), client: worker.ClientTLS("h2"), clientErr: ErrForeign},
		{name: "foreign client", server: manager.ServerTLS("h2"), client: bare(foreign), serverText: "unknown authority"},
		{name: "other swarm of the same authority", server: elsewhere.ServerTLS("h2"), client: bare(worker), serverText: ErrForeign.Error()},
		{name: "server of another swarm", server: manager.ServerTLS("h2"), client: elsewhere.ClientTLS("h2"), clientErr: ErrForeign},
		{name: "expired server", server: expired.ServerTLS("h2"), client: worker.ClientTLS("h2"), clientText: "check this machine's clock"},
		{name: "expired client", server: manager.ServerTLS("h2"), client: expired.ClientTLS("h2"), serverText: "expired"},
		{name: "client's clock is behind", server: manager.ServerTLS("h2"), client: early.ClientTLS("h2"), clientText: "check this machine's clock"},
		{name: "old TLS", server: manager.ServerTLS("h2"), client: &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}, clientText: "protocol version"},
		{name: "no common protocol", server: manager.ServerTLS("h2"), client: manager.ClientTLS("smtp"), clientText: "application protocol"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cs, ss, clientErr, serverErr := handshake(t, tt.server, tt.client)
			switch {
			case tt.serverText != "":
				if serverErr == nil || !strings.Contains(serverErr.Error(), tt.serverText) {
					t.Errorf("server: %v, want %q", serverErr, tt.serverText)
				}
				if clientErr == nil {
					t.Error("client noticed nothing")
				}
				return
			case tt.clientErr != nil:
				if !errors.Is(clientErr, tt.clientErr) {
					t.Errorf("client: %v, want %v", clientErr, tt.clientErr)
				}
				return
			case tt.clientText != "":
				if clientErr == nil || !strings.Contains(clientErr.Error(), tt.clientText) {
					t.Errorf("client: %v, want %q", clientErr, tt.clientText)
				}
				return
			}
			if clientErr != nil || serverErr != nil {
				t.Fatalf("client: %v, server: %v", clientErr, serverErr)
			}
			if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" {
				t.Errorf("version %x, protocol %q", cs.Version, cs.NegotiatedProtocol)
			}
			peer, err := PeerOf(ss)
			if tt.peer == "" {
				if !errors.Is(err, ErrNoCertificate) {
					t.Errorf("peer %+v, %v without a certificate", peer, err)
				}
				return
			}
			if err != nil || peer.NodeID != tt.peer {
				t.Errorf("peer %+v, %v", peer, err)
			}
			server, err := ServerOf(cs)
			if err != nil || server.NodeID != "manager1" {
				t.Errorf("server %+v, %v", server, err)
			}
		})
	}
}

// bare is a client that shows its certificate and believes the server anything.
func bare(i *Identity) *tls.Config {
	cfg := UnverifiedTLS("h2")
	cfg.Certificates = []tls.Certificate{i.cert}
	return cfg
}

func TestPeerOfNeverTrustsUnverified(t *testing.T) {
	i := mustIdentity(t, mustAuthority(t), "node1", RoleManager, time.Now(), time.Hour)
	cs := tls.ConnectionState{HandshakeComplete: true}
	cs.PeerCertificates = append(cs.PeerCertificates, i.leaf)
	if peer, err := PeerOf(cs); !errors.Is(err, ErrForeign) {
		t.Errorf("got %+v, %v", peer, err)
	}
}

func TestCheckTime(t *testing.T) {
	now := time.Now()
	i := mustIdentity(t, mustAuthority(t), "node1", RoleManager, now, time.Hour)
	if err := i.CheckTime(now); err != nil {
		t.Error(err)
	}
	for _, at := range []time.Time{now.Add(-2 * time.Hour), now.Add(2 * time.Hour)} {
		var clock *ClockError
		if err := i.CheckTime(at); !errors.As(err, &clock) || !strings.Contains(err.Error(), at.UTC().Format(time.RFC3339)) {
			t.Errorf("%v", err)
		}
	}
	if d := i.Issued().Sub(now); d < -time.Minute || d > time.Minute {
		t.Errorf("issued %s off", d)
	}
}
