package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/docker/api/types/swarm"
)

const recordFile = "tasks.sealed"

var recordAD = []byte("meshswarm task record v1")

// saver writes the record whenever it changed.
func (w *Worker) saver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.save:
			w.store()
		}
	}
}

// store replaces the record. The next change tries again when this does not work; meanwhile a restart would only repeat
// reports.
func (w *Worker) store() {
	if w.cfg.Dir == "" {
		return
	}
	w.mu.Lock()
	data, err := json.Marshal(w.statuses)
	w.mu.Unlock()
	if err == nil {
		err = writeAtomic(filepath.Join(w.cfg.Dir, recordFile), w.cfg.Sealer.Seal(recordAD, data))
	}
	if err != nil {
		w.log.Error("saving the task record", "err", err)
	}
}

func (w *Worker) load() (map[string]swarm.TaskStatus, error) {
	if w.cfg.Dir == "" {
		return nil, nil
	}
	sealed, err := os.ReadFile(filepath.Join(w.cfg.Dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read task record: %w", err)
	}
	data, err := w.cfg.Sealer.Open(recordAD, sealed)
	if err != nil {
		return nil, fmt.Errorf("open task record: %w", err)
	}
	out := map[string]swarm.TaskStatus{}
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("decode task record: %w", err)
	}
	return out, nil
}

// writeAtomic replaces a file: whoever reads it sees the old or the new content, also after a crash.
func writeAtomic(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
