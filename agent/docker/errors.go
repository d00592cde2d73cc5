package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/meshswarm/meshswarm/agent/task"
)

// engineError is an answer of the engine without the client's standing phrase.
type engineError struct {
	text string
	err  error
}

func (e engineError) Error() string { return e.text }
func (e engineError) Unwrap() error { return e.err }

// wrap says what was being done, and marks errors that go away when the engine comes back.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	wrapped := fmt.Errorf("%s: %w", doing, engineError{text: text, err: err})
	if away(err) {
		return task.Temporary(wrapped)
	}
	return wrapped
}

// away tells whether the engine did not answer, as opposed to having answered with an error.
func away(err error) bool {
	var netErr net.Error
	switch {
	case client.IsErrConnectionFailed(err), cerrdefs.IsUnavailable(err), errors.As(err, &netErr),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNREFUSED):
		return true
	}
	return false
}
