package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// completeName marks a downloaded folder that holds everything: a list of its files.
const completeName = ".complete.json"

// lockPoll is how often a lock that another process holds is tried.
const lockPoll = 100 * time.Millisecond

// cached is one entry of the mark.
type cached struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func isComplete(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, completeName))
	return err == nil
}

// markComplete writes the mark, whole or not at all.
func markComplete(ctx context.Context, dir string, names []string) error {
	list := make([]cached, 0, len(names))
	for _, name := range names {
		f, err := newFile(ctx, name, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		list = append(list, cached{f.Name, f.Bytes, f.SHA256})
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, completeName+partSuffix)
	if err := os.WriteFile(temp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, completeName))
}

// checkComplete holds a downloaded folder to its mark.
func checkComplete(dir string, files []File) error {
	path := filepath.Join(dir, completeName)
	b, err := readBounded(path, maxIndexBytes)
	if err != nil {
		return err
	}
	var list []cached
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("%s: %w: delete %s to download again", path, err, dir)
	}
	want := make(map[string]cached, len(list))
	for _, c := range list {
		want[c.Name] = c
	}
	for _, f := range files {
		if got := (cached{f.Name, f.Bytes, f.SHA256}); want[f.Name] != got {
			return fmt.Errorf("%s changed after it was downloaded: delete %s to download again", f.Path, dir)
		}
	}
	if len(files) != len(list) {
		return fmt.Errorf("%s holds %d files of %d: delete it to download again", dir, len(files), len(list))
	}
	return nil
}

// lock takes an exclusive lock between processes, calling waiting once if it has to wait.
// The file stays: removing it would let two processes in.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil // closing releases it
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if first {
			waiting()
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, context.Cause(ctx)), f.Close())
		}
	}
}
