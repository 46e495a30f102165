package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/job"
)

// found is what a command's RUN|CHECKPOINT names.
type found struct {
	run    string        // the run folder, absolute; "" when the checkpoints lie elsewhere
	job    *job.Resolved // the job that wrote them; nil when it is not known
	store  string        // a folder, absolute, or the URL of an object store
	prefix string        // of the manifests' keys that are meant; "": all of the store

	manifest *checkpoint.Manifest // the one that was chosen; nil: none yet, or the run has none
	damaged  []error              // newer ones that cannot be used
}

// find finds what path names: a run folder, a checkpoint store, one step's folder in it, or one manifest. In an object
// store there is no run to know.
func find(path string) (*found, error) {
	if isURL(path) {
		return findURL(path), nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find checkpoint: %w", err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, fmt.Errorf("find checkpoint: %w", err)
	}
	if fileExists(filepath.Join(abs, "job.resolved.yaml")) {
		f := &found{run: abs}
		if f.job, err = job.ReadResolved(filepath.Join(abs, "job.resolved.yaml")); err != nil {
			return nil, err
		}
		if f.store = storeDir(&f.job.Job); isURL(f.store) {
			return f, nil
		}
		if f.store, err = filepath.Abs(f.store); err != nil {
			return nil, fmt.Errorf("find checkpoint store: %w", err)
		}
		// A run folder that was moved takes its own store with it.
		if own := filepath.Join(abs, "checkpoints"); !fileExists(f.store) && fileExists(own) {
			f.store = own
		}
		return f, nil
	}
	f := &found{store: abs}
	switch step := filepath.Base(filepath.Dir(abs)); {
	case !info.IsDir() && strings.HasPrefix(step, "step-"):
		f.prefix, f.store = step+"/"+filepath.Base(abs), filepath.Dir(filepath.Dir(abs))
	case !info.IsDir():
		return nil, fmt.Errorf("find checkpoint: %s is no run folder, checkpoint store, step folder or manifest", path)
	case strings.HasPrefix(filepath.Base(abs), "step-"):
		f.prefix, f.store = filepath.Base(abs)+"/", filepath.Dir(abs)
	case fileExists(filepath.Join(abs, "config.json")):
		return nil, fmt.Errorf("find checkpoint: %s is a model folder, which has weights but no optimizer state", path)
	}
	// The run that wrote it, when the store is where runs have theirs.
	if resolved := filepath.Join(filepath.Dir(f.store), "job.resolved.yaml"); fileExists(resolved) {
		f.run = filepath.Dir(f.store)
		if f.job, err = job.ReadResolved(resolved); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func isURL(path string) bool { return strings.Contains(path, "://") }

func findURL(where string) *found {
	place, query, _ := strings.Cut(where, "?")
	place = strings.TrimSuffix(place, "/")
	f := &found{}
	if head, last := path.Split(place); strings.HasPrefix(last, "step-") {
		place, f.prefix = strings.TrimSuffix(head, "/"), last+"/"
	} else if store, step := path.Split(strings.TrimSuffix(head, "/")); strings.HasPrefix(step, "step-") {
		place, f.prefix = strings.TrimSuffix(store, "/"), step+"/"+last
	}
	if f.store = place; query != "" {
		f.store += "?" + query
	}
	return f
}

// open opens the store.
func (f *found) open(ctx context.Context) (checkpoint.Store, error) {
	return checkpoint.OpenStore(ctx, f.store)
}

// entries lists the checkpoints that are meant, oldest first.
func (f *found) entries(ctx context.Context, s checkpoint.Store) ([]checkpoint.Entry, error) {
	list, err := checkpoint.List(ctx, s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var meant []checkpoint.Entry
	for _, e := range list {
		if strings.HasPrefix(e.Key, f.prefix) {
			meant = append(meant, e)
		}
	}
	return meant, nil
}

// newestWhole chooses the newest checkpoint that is whole. Every part is read: a damaged one is found here, where there
// is an older checkpoint to fall back on. One that workers wrote when no coordinator was there counts too: nobody can have
// gone on from an older one without committing something newer. A run without any is no error: manifest stays nil.
func (f *found) newestWhole(ctx context.Context) error {
	s, err := f.open(ctx)
	if err != nil {
		return err
	}
	list, err := f.entries(ctx, s)
	if err != nil {
		return err
	}
	for i := len(list) - 1; i >= 0; i-- {
		e := list[i]
		faults := []error{e.Err}
		if e.Err == nil {
			faults = checkpoint.Verify(ctx, s, e.Manifest)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, fault := range faults {
			if fault != nil && !errors.Is(fault, checkpoint.ErrCorrupt) && !errors.Is(fault, checkpoint.ErrVersion) {
				return fault // the store's, not the checkpoint's
			}
		}
		if err := errors.Join(faults...); err != nil {
			f.damaged = append(f.damaged, err)
			continue
		}
		f.manifest = e.Manifest
		return nil
	}
	if f.run != "" && f.prefix == "" {
		return nil
	}
	return errors.Join(append([]error{checkpoint.ErrNone}, f.damaged...)...)
}

// newestCommitted chooses the newest committed checkpoint, whose parts are checked when they are read: for commands that
// must not take another one in silence.
func (f *found) newestCommitted(ctx context.Context) error {
	s, err := f.open(ctx)
	if err != nil {
		return err
	}
	list, err := f.entries(ctx, s)
	if err != nil {
		return err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Committed {
			f.manifest = list[i].Manifest
			return list[i].Err
		}
	}
	return fmt.Errorf("%s: %w", shown(f.store), checkpoint.ErrNone)
}

// reader opens the chosen checkpoint.
func (f *found) reader(ctx context.Context) (*checkpoint.Reader, error) {
	s, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	return checkpoint.Open(s, f.manifest), nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
