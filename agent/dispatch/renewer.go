package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/meshswarm/meshswarm/agent/rpc"
	"github.com/meshswarm/meshswarm/secrets"
)

const (
	minRenewBackoff = 5 * time.Second
	maxRenewBackoff = time.Hour
)

// RenewerConfig says what a Renewer needs.
type RenewerConfig struct {
	RPC      *rpc.Client
	Managers func() []string
	Identity func() *secrets.Identity
	// Replace saves the new identity and makes it the present one.
	Replace func(*secrets.Identity) error
	Clock   Clock // nil: the machine's
	Logger  *slog.Logger
}

// Renewer replaces a node's certificate at a random point between 50 and 80 % of its validity, so that not all nodes come
// at once, and whenever Renew asks for it.
type Renewer struct {
	cfg RenewerConfig
	log *slog.Logger
	now chan struct{}
}

// NewRenewer checks cfg.
func NewRenewer(cfg RenewerConfig) (*Renewer, error) {
	if cfg.RPC == nil || cfg.Managers == nil || cfg.Identity == nil || cfg.Replace == nil {
		return nil, errors.New("dispatch: a Renewer needs RPC, Managers, Identity and Replace")
	}
	if cfg.Clock == nil {
		cfg.Clock = wall{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Renewer{cfg: cfg, log: cfg.Logger.With("component", "renewal"), now: make(chan struct{}, 1)}, nil
}

// Renew asks for a renewal soon. It never blocks.
func (r *Renewer) Renew() {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// Run renews until ctx ends. A renewal that fails is tried again, after 5 s at first and an hour at last; when the
// certificate has expired the log says what that means.
func (r *Renewer) Run(ctx context.Context) error {
	wait, backoff := r.due(), minRenewBackoff
	for {
		fired, stop := r.cfg.Clock.Timer(wait)
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-fired:
		case <-r.now:
			stop()
		}
		err := r.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			wait, backoff = r.due(), minRenewBackoff
			r.log.Info("certificate renewed", "node", r.cfg.Identity().NodeID(), "role", string(r.cfg.Identity().Role()))
		case errors.Is(err, rpc.ErrRemoved):
			return err
		default:
			if expired := r.cfg.Identity().CheckTime(r.cfg.Clock.Now()); expired != nil {
				err = fmt.Errorf("%w; if the clock is right, `meshswarm leave --force` and join again: %w", expired, err)
			}
			r.log.Warn("renew certificate", "err", err, "dur", backoff)
			wait, backoff = backoff, min(2*backoff, maxRenewBackoff)
		}
	}
}

// due is the time until the next renewal.
func (r *Renewer) due() time.Duration {
	id := r.cfg.Identity()
	validity := id.Expiry().Sub(id.Issued())
	at := id.Issued().Add(validity/2 + rand.N(validity*3/10+1))
	return max(at.Sub(r.cfg.Clock.Now()), 0)
}

func (r *Renewer) renew(ctx context.Context) error {
	key, csr, err := secrets.NewKey()
	if err != nil {
		return err
	}
	var resp renewResponse
	if err := callLeader(ctx, r.cfg.RPC, r.cfg.Managers(), rpc.PathRenew, renewRequest{CSR: csr}, &resp); err != nil {
		return err
	}
	next, err := r.cfg.Identity().Renewed(resp.Certificate, key)
	if err != nil {
		return err
	}
	return r.cfg.Replace(next)
}

// callTimeout bounds one call to one manager.
const callTimeout = 10 * time.Second

// callLeader makes a call that only the leader answers: any manager tells where that is.
func callLeader(ctx context.Context, client *rpc.Client, managers []string, path string, in, out any) error {
	err := errors.New("no manager is known")
	for _, addr := range managers {
		for range maxHops {
			callCtx, cancel := context.WithTimeout(ctx, callTimeout)
			err = client.Call(callCtx, addr, path, in, out)
			cancel()
			var refusal *rpc.Error
			if err == nil || errors.Is(err, rpc.ErrRemoved) || ctx.Err() != nil {
				return err
			}
			if !errors.As(err, &refusal) || refusal.Leader == "" || refusal.Leader == addr {
				break
			}
			addr = refusal.Leader
		}
	}
	return err
}
