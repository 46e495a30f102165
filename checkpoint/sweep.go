package checkpoint

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Sweep removes what a store need not keep.
//
// Superseded are committed checkpoints beyond the newest keep, with the parts that only they name: those are finished,
// and go at once. keep < 1 counts as 1.
//
// Leftovers are what nothing says is finished: half-written files, parts that no manifest names, uncommitted manifests of
// steps before the newest committed one. They go once nobody has written to them for olderThan before now, which must be
// longer than the slowest rank needs from its part to the commit.
//
// What the newest keep name is never touched, nor what a manifest names that may yet be adopted, nor a step whose manifest
// cannot be read, unless enough newer ones are there: a newer zerofleet may have written it.
func Sweep(ctx context.Context, s Store, keep int, olderThan time.Duration, now time.Time) error {
	// The objects first: what is committed while the manifests are read is in none of them.
	objects, err := s.List(ctx, "step-")
	if err != nil {
		return err
	}
	entries, err := List(ctx, s)
	if err != nil {
		return err
	}
	before := now.Add(-olderThan)
	p := planSweep(entries, keep)
	var doomed []string
	for _, o := range objects {
		if p.removes(o, before) {
			doomed = append(doomed, o.Key)
		}
	}
	if err := deleteAll(ctx, s, doomed); err != nil {
		return err
	}
	if t, ok := s.(interface {
		removeTemporary(ctx context.Context, before time.Time) error
	}); ok {
		return t.removeTemporary(ctx, before)
	}
	return nil
}

// Remove removes everything of a step: its manifests, then its parts. fs.ErrNotExist if there is nothing.
func Remove(ctx context.Context, s Store, step int64) error {
	objects, err := s.List(ctx, stepFolder(step)+"/")
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return fmt.Errorf("remove checkpoint of step %d: %w", step, fs.ErrNotExist)
	}
	keys := make([]string, len(objects))
	for i, o := range objects {
		keys[i] = o.Key
	}
	return deleteAll(ctx, s, keys)
}

// deleteAll deletes manifests first: a checkpoint whose manifest is there is whole.
func deleteAll(ctx context.Context, s Store, keys []string) error {
	sort.SliceStable(keys, func(i, j int) bool { return path.Ext(keys[i]) == ".json" && path.Ext(keys[j]) != ".json" })
	for _, key := range keys {
		if err := s.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// sweep is what is known of a store's objects.
type sweep struct {
	named      map[string]bool // by what must stay
	superseded map[string]bool // and not named
	unreadable map[int64]bool  // steps that are not touched
}

func planSweep(entries []Entry, keep int) sweep {
	keep = max(keep, 1)
	var kept []int64 // distinct steps, newest first
	for i := len(entries) - 1; i >= 0 && len(kept) < keep; i-- {
		if e := entries[i]; e.Committed && e.Err == nil && (len(kept) == 0 || kept[len(kept)-1] != e.Step) {
			kept = append(kept, e.Step)
		}
	}
	older := func(e Entry) bool { return len(kept) == keep && e.Step < kept[keep-1] }
	p := sweep{named: map[string]bool{}, superseded: map[string]bool{}, unreadable: map[int64]bool{}}
	for _, e := range entries {
		switch {
		case e.Err != nil:
			p.unreadable[e.Step] = p.unreadable[e.Step] || !older(e)
		case e.Committed && older(e):
			mark(p.superseded, e)
		case !e.Committed && len(kept) > 0 && e.Step < kept[0]:
			// A leftover: its parts are nobody's.
		default:
			mark(p.named, e)
		}
	}
	return p
}

func mark(set map[string]bool, e Entry) {
	set[e.Key] = true
	for _, part := range e.Manifest.Parts {
		set[part.Key] = true
	}
}

// removes decides about one object. Files that are not a checkpoint's are left alone.
func (p sweep) removes(o Info, before time.Time) bool {
	folder, base := path.Split(o.Key)
	step, err := strconv.ParseInt(strings.TrimPrefix(strings.TrimSuffix(folder, "/"), "step-"), 10, 64)
	if err != nil || !strings.HasPrefix(base, "gen-") || p.named[o.Key] || p.unreadable[step] {
		return false
	}
	return p.superseded[o.Key] || o.Modified.Before(before)
}
