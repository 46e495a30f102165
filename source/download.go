package source

import (
	"context"
	"crypto/sha1" //nolint:gosec // git names its blobs by it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	partSuffix    = ".part" // of a file that is not whole yet
	progressBytes = 4 << 20 // between two calls of Progress
)

// download gets every file of the model that dir lacks, then marks dir complete.
func (h hub) download(ctx context.Context, list listing, dir string) error {
	listed := make(map[string]listedFile, len(list.Files))
	for _, f := range list.Files {
		listed[f.Name] = f
	}
	has := func(name string) bool { _, ok := listed[name]; return ok }
	names, err := modelFiles(has, func() ([]byte, error) {
		if err := h.file(ctx, list.Commit, listed[indexName], dir); err != nil {
			return nil, err
		}
		return readBounded(filepath.Join(dir, indexName), maxIndexBytes)
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := h.file(ctx, list.Commit, listed[name], dir); err != nil {
			return fmt.Errorf("download %s: %w", name, err)
		}
	}
	return markComplete(ctx, dir, names)
}

// file gets one file unless it is there: a file has its name only once it is whole and
// checked. As long as bytes arrive, lost connections are taken up where they broke.
func (h hub) file(ctx context.Context, id string, f listedFile, dir string) error {
	path := filepath.Join(dir, f.Name)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	part := path + partSuffix
	for {
		before := length(part)
		_, err := retry(ctx, h, func() (struct{}, error) { return struct{}{}, h.attempt(ctx, id, f, part) })
		if err == nil {
			return os.Rename(part, path)
		}
		if ctx.Err() != nil || length(part) <= before {
			return err
		}
	}
}

func length(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// attempt appends what one connection gives to the part, and checks it when it is whole.
func (h hub) attempt(ctx context.Context, id string, f listedFile, part string) error {
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return permanent(err)
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return permanent(err)
	}
	if f.Bytes == nil || have < *f.Bytes || have == 0 {
		if err := h.receive(ctx, id, f, out, have); err != nil {
			return err
		}
	}
	if err := out.Sync(); err != nil {
		return permanent(err)
	}
	if err := verify(ctx, out, f); err != nil {
		if ctx.Err() != nil {
			return err
		}
		err = errors.Join(err, out.Truncate(0)) // the next try starts anew
		if have == 0 {
			return permanent(err) // nothing was taken over: another try would end the same
		}
		return err
	}
	return nil
}

// receive asks for the content from byte have on and writes it to out.
func (h hub) receive(ctx context.Context, id string, f listedFile, out *os.File, have int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{}
	if have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	address := fmt.Sprintf("%s/%s/resolve/%s/%s", h.Endpoint, h.ref.id(), id, url.PathEscape(f.Name))
	response, err := h.get(ctx, address, header)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusPartialContent && strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
	case response.StatusCode == http.StatusOK:
		have = 0 // the server does not resume
	case response.StatusCode == http.StatusPartialContent, response.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return errors.Join(fmt.Errorf("the hub does not resume at byte %d (%s)", have, response.Status), out.Truncate(0))
	default:
		return h.refusal(response)
	}
	if err := out.Truncate(have); err != nil {
		return permanent(err)
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return permanent(err)
	}
	total := int64(-1)
	if f.Bytes != nil {
		total = *f.Bytes
	} else if response.ContentLength >= 0 {
		total = have + response.ContentLength
	}
	stalled := h.retries.orDefault().stalled
	timer := time.AfterFunc(stalled, func() { cancel(fmt.Errorf("no data for %v", stalled)) })
	defer timer.Stop()
	body := &meter{r: response.Body, timer: timer, stalled: stalled, report: h.Progress, name: f.Name, done: have, total: total}
	return transfer(ctx, out, body, total)
}

// transfer copies body to out; total is where it must end, -1 if nobody said.
func transfer(ctx context.Context, out *os.File, body *meter, total int64) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if total >= 0 && body.done > total {
			return permanent(fmt.Errorf("longer than the %d bytes that the hub listed", total))
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return permanent(err) // our disk's fault, not the connection's
		}
		switch {
		case err == io.EOF && body.done < total:
			return fmt.Errorf("connection closed at byte %d of %d", body.done, total)
		case err == io.EOF:
			body.finish()
			return nil
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("connection lost at byte %d: %w", body.done, err)
		}
	}
}

// meter counts what is read, reports it and keeps the stall timer from firing.
type meter struct {
	r       io.Reader
	timer   *time.Timer
	stalled time.Duration
	report  func(file string, done, total int64)
	name    string
	done    int64
	total   int64
	told    int64 // done at the last report
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if n > 0 {
		m.timer.Reset(m.stalled)
	}
	if m.report != nil && m.done-m.told >= progressBytes {
		m.finish()
	}
	return n, err
}

// finish reports where the download stands.
func (m *meter) finish() {
	if m.report != nil {
		m.report(m.name, m.done, m.total)
		m.told = m.done
	}
}

// verify holds the whole part to what the hub listed: its length, and its SHA-256 or, for a
// small file, git's name for it.
func verify(ctx context.Context, out *os.File, f listedFile) error {
	n, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return permanent(err)
	}
	if f.Bytes != nil && n != *f.Bytes {
		return fmt.Errorf("%d bytes, but the hub listed %d", n, *f.Bytes)
	}
	var sum hash.Hash
	var want, what string
	switch {
	case f.LFS != nil && f.LFS.SHA256 != "":
		sum, want, what = sha256.New(), f.LFS.SHA256, "SHA-256"
	case f.LFS == nil && f.Blob != "":
		sum, want, what = sha1.New(), f.Blob, "git blob" //nolint:gosec // as git does
		fmt.Fprintf(sum, "blob %d\x00", n)
	default:
		return nil
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return permanent(err)
	}
	if _, err := io.Copy(sum, contextReader{ctx, out}); err != nil {
		return permanent(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("%s %s, but the hub listed %s", what, got, want)
	}
	return nil
}
