package spot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const (
	fileInterval   = 500 * time.Millisecond
	maxFileSeconds = 366 * 24 * 3600 // a deadline beyond is a mistake, and far from overflowing a time.Duration
)

// fileWatch is a path whose appearance is a notice. So is a file that has been there from the start: whoever wrote it has not
// taken it back.
type fileWatch struct {
	*watcher
	last  fs.FileInfo // what was there at the last look; nil: nothing
	told  bool        // last has been delivered
	count int         // notices so far
}

func (w *watcher) watchFile(ctx context.Context) {
	w.poll(ctx, w.o.File, fileInterval, (&fileWatch{watcher: w}).look)
}

// look delivers a file that was not there at the last look, or has been written or replaced since.
func (f *fileWatch) look(ctx context.Context) error {
	info, err := os.Stat(f.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		f.last = nil
		return nil
	}
	if err != nil {
		return &fault{kind: "stat", err: err}
	}
	if !info.Mode().IsRegular() {
		return &fault{kind: "not a file", err: fmt.Errorf("%s: not a regular file", f.o.File)}
	}
	// A file system may give a file that is created at once after another's removal the same inode.
	same := f.last != nil && os.SameFile(f.last, info) && f.last.ModTime().Equal(info.ModTime()) && f.last.Size() == info.Size()
	if same && f.told {
		return nil
	}
	f.last, f.told = info, false
	n, complete, err := readNotice(f.o.File, time.Now())
	if !complete && !same {
		return nil // its writer may be about to write: have another look
	}
	f.told, f.count = true, f.count+1
	n.ID = fmt.Sprintf("file/%d", f.count)
	f.deliver(ctx, n)
	if err != nil {
		// That it is there is notice enough.
		f.o.Log.Warn("cannot read what the notice says", "file", f.o.File, "error", line(err.Error()))
	}
	return nil
}

// readNotice reads what a notice's file says. complete is false for an empty file and for one that cannot be read, which are
// notices too.
func readNotice(path string, now time.Time) (n Notice, complete bool, err error) {
	n = Notice{Provider: File, Kind: Preempt, Why: "file " + line(path)}
	// Opening must not wait, whatever has taken the file's place since it was looked at.
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return n, false, err
	}
	defer r.Close()
	body, err := io.ReadAll(io.LimitReader(r, maxAnswerBytes+1))
	if err != nil {
		return n, false, err
	}
	deadline, why, err := parseFile(body, now)
	if err != nil {
		return n, false, err
	}
	n.Deadline = deadline
	if why != "" {
		n.Why = why
	}
	return n, len(bytes.TrimSpace(body)) > 0, nil
}

// parseFile reads nothing, or {"deadline_seconds": 60, "why": "..."}, both optional. The deadline is zero without the first.
func parseFile(body []byte, now time.Time) (deadline time.Time, why string, err error) {
	if len(body) > maxAnswerBytes {
		return time.Time{}, "", fmt.Errorf("more than %d bytes", maxAnswerBytes)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return time.Time{}, "", nil
	}
	var says struct {
		DeadlineSeconds *float64 `json:"deadline_seconds"`
		Why             string   `json:"why"`
	}
	if err := json.Unmarshal(body, &says); err != nil {
		return time.Time{}, "", fmt.Errorf("decode: %w", err)
	}
	if s := says.DeadlineSeconds; s != nil {
		if *s < 0 || *s > maxFileSeconds {
			return time.Time{}, "", fmt.Errorf("deadline_seconds=%g: want 0 to %d", *s, maxFileSeconds)
		}
		deadline = now.Add(time.Duration(*s * float64(time.Second)))
	}
	return deadline, line(says.Why), nil
}
