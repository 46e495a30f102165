package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
)

func stepFolder(step int64) string { return fmt.Sprintf("step-%010d", step) }

func manifestKey(m *Manifest, b []byte, kind string) string {
	return path.Join(stepFolder(m.Step), fmt.Sprintf("gen-%d-%s-%s.json", m.Generation, kind, digest(b)[:16]))
}

const (
	committed   = "manifest"
	uncommitted = "uncommitted"
)

// PutManifest writes a committed checkpoint's manifest as an object, so that the store alone is enough. b is what
// Manifest.Marshal gave and the authority has agreed to.
func PutManifest(ctx context.Context, s Store, b []byte) (*Manifest, error) {
	return putManifest(ctx, s, b, committed)
}

// PutUncommitted writes a manifest that no authority has agreed to, because none was reached.
func PutUncommitted(ctx context.Context, s Store, b []byte) (*Manifest, error) {
	return putManifest(ctx, s, b, uncommitted)
}

func putManifest(ctx context.Context, s Store, b []byte, kind string) (*Manifest, error) {
	m, err := Decode(b)
	if err != nil {
		return nil, err
	}
	err = s.Put(ctx, manifestKey(m, b, kind), func(w io.Writer) error { _, err := w.Write(b); return err })
	if err != nil {
		return nil, fmt.Errorf("put manifest of step %d: %w", m.Step, err)
	}
	return m, nil
}

// Entry is one checkpoint of a store.
type Entry struct {
	Key       string // of the manifest
	Step      int64  // as the key says
	Committed bool
	Manifest  *Manifest // nil when Err is set
	Err       error     // the manifest could not be read
}

// List lists a store's checkpoints, oldest first; of one step the newest generation comes last, and a committed manifest
// after an uncommitted one. A manifest that is damaged has an entry that says so; one that the store does not give is an
// error, so that no older checkpoint is taken for the newest because a store did not answer.
func List(ctx context.Context, s Store) ([]Entry, error) {
	objects, err := s.List(ctx, "step-")
	if err != nil {
		return nil, err
	}
	var list []Entry
	for _, o := range objects {
		base := path.Base(o.Key)
		isCommitted := strings.Contains(base, "-"+committed+"-")
		if path.Ext(base) != ".json" || !isCommitted && !strings.Contains(base, "-"+uncommitted+"-") {
			continue
		}
		step, err := strconv.ParseInt(strings.TrimPrefix(path.Dir(o.Key), "step-"), 10, 64)
		if err != nil {
			continue // not ours
		}
		m, err := readManifest(ctx, s, o.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			return nil, err
		}
		if err == nil && m.Step != step {
			m, err = nil, fmt.Errorf("%s: of step %d: %w", o.Key, m.Step, ErrCorrupt)
		}
		list = append(list, Entry{Key: o.Key, Step: step, Committed: isCommitted, Manifest: m, Err: err})
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i].Manifest, list[j].Manifest
		switch {
		case list[i].Step != list[j].Step:
			return list[i].Step < list[j].Step
		case a == nil || b == nil:
			return a == nil && b != nil
		case a.Generation != b.Generation:
			return a.Generation < b.Generation
		}
		return !list[i].Committed && list[j].Committed
	})
	return list, nil
}

func readManifest(ctx context.Context, s Store, key string) (*Manifest, error) {
	o, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if o.Bytes() > maxManifestBytes {
		return nil, fmt.Errorf("%s: %d bytes: %w", key, o.Bytes(), ErrCorrupt)
	}
	b := make([]byte, o.Bytes())
	if err := o.ReadAt(ctx, b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	// The key has the digest, so that a flipped bit that is still JSON is found too.
	if want := digest(b)[:16]; !strings.HasSuffix(key, "-"+want+".json") {
		return nil, fmt.Errorf("%s: its checksum begins with %s, want the one in its name: %w", key, want, ErrCorrupt)
	}
	m, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return m, nil
}

// Newest is the newest committed checkpoint that can be read, and what was wrong with the newer ones. ErrNone if there
// is none.
func Newest(ctx context.Context, s Store) (m *Manifest, damaged []error, err error) {
	list, err := List(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for i := len(list) - 1; i >= 0; i-- {
		e := list[i]
		if !e.Committed {
			continue
		}
		if e.Err != nil {
			damaged = append(damaged, e.Err)
			continue
		}
		err := checkSizes(ctx, s, e.Manifest)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, damaged, err
		}
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		return e.Manifest, damaged, nil
	}
	return nil, damaged, ErrNone
}

// checkSizes sees that every part is there in its length; its content is checked when it is read.
func checkSizes(ctx context.Context, s Store, m *Manifest) error {
	for _, p := range m.Parts {
		o, err := s.Open(ctx, p.Key)
		if err != nil {
			return fmt.Errorf("part %d of step %d: %w", p.Rank, m.Step, gone(err))
		}
		n := o.Bytes()
		o.Close()
		if n != p.Bytes {
			return fmt.Errorf("part %d of step %d (%s): %d bytes, want %d: %w", p.Rank, m.Step, p.Key, n, p.Bytes, ErrCorrupt)
		}
	}
	return nil
}
