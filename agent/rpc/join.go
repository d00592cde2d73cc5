package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/meshswarm/meshswarm/secrets"
)

const (
	joinTimeout  = 20 * time.Second
	maxRedirects = 3
	maxRoot      = 64 << 10
)

// Join makes this machine a member of the swarm that token belongs to, by the manager at addr (host:port). The manager
// is trusted only after its authority was checked against the token; before that nothing secret is sent. The
// identity is in memory only: Save it. Token and CSR of req are filled in.
//
// Errors worth telling apart: secrets.ErrToken, secrets.ErrPin (token of another swarm), ErrBadToken, ErrUnreachable,
// *secrets.ClockError, ErrUnavailable. Each text says what to do.
func Join(ctx context.Context, addr, token string, req JoinRequest) (*secrets.Identity, JoinResponse, error) {
	id, resp, err := join(ctx, (&net.Dialer{Timeout: dialTimeout}).DialContext, addr, token, req)
	if err != nil {
		if errors.Is(err, ErrUnreachable) {
			err = fmt.Errorf("%w: is that node up, and its port open from here?", err)
		}
		return nil, JoinResponse{}, fmt.Errorf("join %s: %w", addr, err)
	}
	return id, resp, nil
}

func join(ctx context.Context, dial dialFunc, addr, token string, req JoinRequest) (*secrets.Identity, JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	tok, err := secrets.ParseToken(token)
	if err != nil {
		return nil, JoinResponse{}, err
	}
	root, err := fetchRoot(ctx, dial, addr)
	if err != nil {
		return nil, JoinResponse{}, err
	}
	if err := secrets.VerifyRoot(root, tok); err != nil {
		return nil, JoinResponse{}, err
	}
	key, csr, err := secrets.NewKey()
	if err != nil {
		return nil, JoinResponse{}, err
	}
	req.Token, req.CSR = tok.Text(), csr
	resp, err := postJoin(ctx, dial, addr, root, req)
	if err != nil {
		return nil, JoinResponse{}, err
	}
	id, err := secrets.NewIdentity(root, resp.Certificate, key)
	if err != nil {
		return nil, JoinResponse{}, fmt.Errorf("read the manager's answer: %w", err)
	}
	if id.NodeID() != resp.NodeID || id.SwarmID() != resp.SwarmID {
		return nil, JoinResponse{}, errors.New("read the manager's answer: certificate and answer differ")
	}
	if err := id.CheckTime(time.Now()); err != nil {
		return nil, JoinResponse{}, err
	}
	return id, resp, nil
}

// fetchRoot gets the authority's certificate from a manager that nobody has verified yet.
func fetchRoot(ctx context.Context, dial dialFunc, addr string) ([]byte, error) {
	t := newTransport(func(ctx context.Context, addr string) (net.Conn, error) {
		return dialTLS(ctx, dial, addr, secrets.UnverifiedTLS(ProtoHTTP))
	})
	defer t.CloseIdleConnections()
	req, err := newRequest(ctx, http.MethodGet, addr, PathCA, nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, readError(resp)
	}
	root, err := io.ReadAll(io.LimitReader(resp.Body, maxRoot))
	if err != nil {
		return nil, fmt.Errorf("fetch the swarm's authority: %w", err)
	}
	return root, nil
}

// postJoin sends the token to a manager that root vouches for, and to the leader when that is another one.
func postJoin(ctx context.Context, dial dialFunc, addr string, root []byte, req JoinRequest) (JoinResponse, error) {
	t := newTransport(func(ctx context.Context, addr string) (net.Conn, error) {
		cfg, err := secrets.JoinTLS(root, ProtoHTTP)
		if err != nil {
			return nil, err
		}
		return dialTLS(ctx, dial, addr, cfg)
	})
	defer t.CloseIdleConnections()
	for range maxRedirects {
		var resp JoinResponse
		err := call(ctx, t, addr, PathJoin, req, &resp)
		var refusal *Error
		if err == nil {
			return resp, nil
		}
		if !errors.As(err, &refusal) || !errors.Is(err, ErrNotLeader) || refusal.Leader == "" {
			return JoinResponse{}, err
		}
		addr = refusal.Leader
	}
	return JoinResponse{}, ErrUnavailable.With("managers do not agree on who leads; try again in a moment")
}
