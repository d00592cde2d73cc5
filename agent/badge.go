package agent

import (
	"sync/atomic"

	"github.com/meshswarm/meshswarm/secrets"
)

// badge is the node's present certificate, which is renewed while the node runs.
type badge struct {
	dir string
	// replaced is called after a change: what was opened with the old certificate is opened again.
	replaced func()
	current  atomic.Pointer[secrets.Identity]
}

func newBadge(id *secrets.Identity, dir string) *badge {
	b := &badge{dir: dir}
	b.current.Store(id)
	return b
}

func (b *badge) get() *secrets.Identity { return b.current.Load() }

// replace keeps a renewed certificate on disk, then uses it.
func (b *badge) replace(id *secrets.Identity) error {
	if err := id.Save(b.dir); err != nil {
		return err
	}
	b.current.Store(id)
	b.replaced()
	return nil
}

// newToken makes a join token for the authority with this certificate.
func newToken(rootPEM []byte) (string, error) {
	digest, err := secrets.RootDigest(rootPEM)
	if err != nil {
		return "", err
	}
	return secrets.NewToken(digest)
}
