package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/docker/docker/client"
)

// maxAnswer bounds what is read of an answer, in bytes: an explanation of ten thousand nodes fits.
const maxAnswer = 64 << 20

// ask sends a request of meshswarm's own, which Docker's API does not have, and reads the JSON of the answer into what
// into points to, unless that is nil. An error is in the node's words.
func ask(ctx context.Context, node *client.Client, method, path string, into any) error {
	// A request of Docker's client first, for its way to say that nobody answers.
	if _, err := node.Ping(ctx); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://meshswarm"+path, nil)
	if err != nil {
		return err
	}
	response, err := node.HTTPClient().Do(request)
	if err != nil {
		return fmt.Errorf("ask the node: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	if response.StatusCode >= 300 {
		var answer struct{ Message string }
		if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
			answer.Message = fmt.Sprintf("the node answers %s to %s %s", response.Status, method, path)
		}
		return errors.New("Error response from daemon: " + answer.Message) // as Docker's client says it
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	return nil
}
