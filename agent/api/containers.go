package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/filters"
)

const (
	// ownLabels is the prefix of the labels of containers that belong to meshswarm itself; sandboxLabel marks a sandbox.
	ownLabels    = "meshswarm."
	sandboxLabel = "meshswarm.sandbox"
	// maxContainerList bounds the engine's answer.
	maxContainerList = 256 << 20
)

// listContainers is the engine's list without sandboxes, unless they are asked for by a label filter on meshswarm.*.
func (s *Server) listContainers(ctx context.Context, w http.ResponseWriter, r *http.Request, vars map[string]string) error {
	q := r.URL.Query()
	f, err := filters.FromJSON(q.Get("filters"))
	if err != nil {
		return err
	}
	for _, l := range f.Get("label") {
		if strings.HasPrefix(l, ownLabels) {
			return s.proxy(ctx, w, r, vars)
		}
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if q.Get("limit") != "" && err != nil {
		return invalid("invalid limit %q: %w", q.Get("limit"), err)
	}
	if limit > 0 { // the engine would count sandboxes; its limit implies all
		q.Del("limit")
		q.Set("all", "1")
	}
	v, err := s.engine.lower(ctx, vars["version"])
	if err != nil {
		return err
	}
	resp, err := s.engine.send(ctx, http.MethodGet, "/v"+v+"/containers/json", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", "application/json")
	if resp.StatusCode != http.StatusOK {
		copyResponse(w, resp)
		return nil
	}
	if err := copyContainers(w, io.LimitReader(resp.Body, maxContainerList), limit); err != nil {
		s.log.Debug("container list cut off", "err", err)
		panic(http.ErrAbortHandler) // the status is sent: a broken connection tells the client
	}
	return nil
}

// copyContainers streams a JSON list of containers, one at a time, leaving out sandboxes; at most limit if limit > 0.
func copyContainers(w io.Writer, r io.Reader, limit int) error {
	dec := json.NewDecoder(r)
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("container list does not start with a list: %w", errors.Join(err))
	}
	if _, err := io.WriteString(w, "["); err != nil {
		return err
	}
	written := 0
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("decode container: %w", err)
		}
		var c struct{ Labels map[string]string }
		if err := json.Unmarshal(raw, &c); err != nil {
			return fmt.Errorf("decode container: %w", err)
		}
		if _, hidden := c.Labels[sandboxLabel]; hidden || limit > 0 && written == limit {
			continue
		}
		if written > 0 {
			raw = append([]byte(","), raw...)
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
		written++
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("container list does not end: %w", err)
	}
	_, err := io.WriteString(w, "]\n")
	return err
}
