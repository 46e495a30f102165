// Package checkpointtest has the tests that every checkpoint store passes: Run.
package checkpointtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/shard"
)

// Run runs the suite; open gives an empty store.
func Run(t *testing.T, open func(t *testing.T) checkpoint.Store) {
	for name, test := range map[string]func(*testing.T, checkpoint.Store){
		"what is put is read":                       putAndRead,
		"a key that exists is left alone":           leftAlone,
		"of two writers of a key one wins":          twoWriters,
		"nothing half-written is visible":           halfWritten,
		"a write ends with its context":             endedContext,
		"what is not there":                         missing,
		"a list is by prefix and in order":          listed,
		"keys stay below the store":                 badKeys,
		"a checkpoint restores at another size":     otherSize,
		"sweeping keeps the newest":                 sweepKeeps,
		"sweeping collects leftovers by their age":  sweepCollects,
		"a step is removed":                         removed,
		"a part that is missing is named as damage": missingPart,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

var ctx = context.Background()

// Content is n bytes that differ from place to place.
func Content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// Writer gives a Put its bytes, in pieces.
func Writer(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		for piece := range slices.Chunk(b, 64<<10) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}
}

// Read reads a whole object.
func Read(t testing.TB, s checkpoint.Store, key string) []byte {
	t.Helper()
	o, err := s.Open(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b := make([]byte, o.Bytes())
	if err := o.ReadAt(ctx, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// Keys lists a store's keys.
func Keys(t testing.TB, s checkpoint.Store, prefix string) []string {
	t.Helper()
	list, err := s.List(ctx, prefix)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{}
	for _, o := range list {
		keys = append(keys, o.Key)
	}
	return keys
}

func put(t *testing.T, s checkpoint.Store, key string, b []byte) {
	t.Helper()
	if err := s.Put(ctx, key, Writer(b)); err != nil {
		t.Fatal(err)
	}
}

func putAndRead(t *testing.T, s checkpoint.Store) {
	for _, n := range []int{0, 1, 300_000} {
		key, want := fmt.Sprintf("step-1/%d bytes", n), Content(n)
		put(t, s, key, want)
		if got := Read(t, s, key); !bytes.Equal(got, want) {
			t.Errorf("%s: read other bytes than were put", key)
		}
		list, err := s.List(ctx, key)
		if err != nil || len(list) != 1 || list[0].Bytes != int64(n) || time.Since(list[0].Modified).Abs() > time.Hour {
			t.Errorf("%s: listed as %+v, %v", key, list, err)
		}
		o, err := s.Open(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range [][2]int{{0, n}, {n / 3, n / 2}, {n - min(n, 1), n}, {n, n}} {
			b := make([]byte, r[1]-r[0])
			if err := o.ReadAt(ctx, b, int64(r[0])); err != nil || !bytes.Equal(b, want[r[0]:r[1]]) {
				t.Errorf("%s [%d,%d): other bytes, or %v", key, r[0], r[1], err)
			}
		}
		if err := o.ReadAt(ctx, make([]byte, 2), int64(n)-1); n > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: read past the end: %v, want %v", key, err, io.ErrUnexpectedEOF)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}

func leftAlone(t *testing.T, s checkpoint.Store) {
	put(t, s, "step-1/a", []byte("first"))
	put(t, s, "step-1/a", []byte("second"))
	if got := Read(t, s, "step-1/a"); string(got) != "first" {
		t.Errorf("got %q, want what was put first", got)
	}
}

func twoWriters(t *testing.T, s checkpoint.Store) {
	var wg sync.WaitGroup
	both := make(chan struct{}, 2)
	for i := range 2 {
		wg.Go(func() {
			err := s.Put(ctx, "step-1/a", func(w io.Writer) error {
				both <- struct{}{}
				_, err := w.Write(bytes.Repeat([]byte{byte(i)}, 100_000))
				return err
			})
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got := Read(t, s, "step-1/a")
	if len(got) != 100_000 || !bytes.Equal(got, bytes.Repeat(got[:1], len(got))) {
		t.Error("a mixture of two writers' bytes")
	}
}

func halfWritten(t *testing.T, s checkpoint.Store) {
	broken := errors.New("disk full")
	calls := 0
	err := s.Put(ctx, "step-1/a", func(w io.Writer) error {
		calls++
		if err := Writer(Content(300_000))(w); err != nil {
			return err
		}
		if keys := Keys(t, s, ""); len(keys) > 0 {
			t.Errorf("visible while it is written: %v", keys)
		}
		return broken
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "put step-1/a") || calls != 1 {
		t.Errorf("put: %v after %d calls, want %v, with operation and key, after one", err, calls, broken)
	}
	if keys := Keys(t, s, ""); len(keys) > 0 {
		t.Errorf("left behind: %v", keys)
	}
	put(t, s, "step-1/a", []byte("whole"))
	if got := Read(t, s, "step-1/a"); string(got) != "whole" {
		t.Errorf("got %q after another try, want it whole", got)
	}
}

func endedContext(t *testing.T, s checkpoint.Store) {
	ending, end := context.WithCancel(ctx)
	err := s.Put(ending, "step-1/a", func(w io.Writer) error {
		if _, err := w.Write(Content(1000)); err != nil {
			return err
		}
		end()
		_, err := w.Write(Content(1000))
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v, want %v", err, context.Canceled)
	}
	if keys := Keys(t, s, ""); len(keys) > 0 {
		t.Errorf("left behind: %v", keys)
	}
	put(t, s, "step-1/b", Content(10))
	o, err := s.Open(ctx, "step-1/b")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := o.ReadAt(ending, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v, want %v", err, context.Canceled)
	}
	if err := o.ReadAt(ctx, make([]byte, 10), 0); err != nil {
		t.Errorf("read after another's context has ended: %v", err)
	}
}

func missing(t *testing.T, s checkpoint.Store) {
	if _, err := s.Open(ctx, "step-1/none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "open step-1/none") {
		t.Errorf("open: %v, want %v, with operation and key", err, fs.ErrNotExist)
	}
	if err := s.Delete(ctx, "step-1/none"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if keys := Keys(t, s, "step-"); len(keys) > 0 {
		t.Errorf("an empty store lists %v", keys)
	}
	put(t, s, "step-1/a", []byte("x"))
	if err := s.Delete(ctx, "step-1/a"); err != nil {
		t.Error(err)
	}
	if _, err := s.Open(ctx, "step-1/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what was deleted: %v, want %v", err, fs.ErrNotExist)
	}
}

func listed(t *testing.T, s checkpoint.Store) {
	for _, key := range []string{"step-2/b", "step-1/z", "step-10/a", "other/x", "step-2/a"} {
		put(t, s, key, []byte(key))
	}
	for prefix, want := range map[string][]string{
		"":         {"other/x", "step-1/z", "step-10/a", "step-2/a", "step-2/b"},
		"step-1":   {"step-1/z", "step-10/a"},
		"step-1/":  {"step-1/z"},
		"step-2/b": {"step-2/b"},
		"none":     {},
	} {
		if got := Keys(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %v, want %v", prefix, got, want)
		}
	}
}

func badKeys(t *testing.T, s checkpoint.Store) {
	for _, key := range []string{"../x", "/x", "", ".", "a/../b", "a//b"} {
		if err := s.Put(ctx, key, Writer(nil)); err == nil {
			t.Errorf("put %q: want an error", key)
		}
		if _, err := s.Open(ctx, key); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %q: %v, want that the key is refused", key, err)
		}
		if err := s.Delete(ctx, key); err == nil {
			t.Errorf("delete %q: want an error", key)
		}
	}
}

func units() []checkpoint.Unit {
	return []checkpoint.Unit{
		{Name: "embed", Elems: 50_000, Tensors: []checkpoint.Tensor{{Name: "e", Shape: []int{500, 100}}}},
		{Name: "head", Elems: 300, Tensors: []checkpoint.Tensor{{Name: "h", Shape: []int{300}}}},
	}
}

func value(f checkpoint.Field, e int) float32 { return float32(e)/64 + float32(f) }

// Save writes a checkpoint of world ranks, and commits it or leaves it uncommitted.
func Save(ctx context.Context, s checkpoint.Store, step int64, world int, committed bool) (*checkpoint.Manifest, error) {
	m := &checkpoint.Manifest{Version: checkpoint.Version, Job: "j", Step: step, OptimizerStep: step, Generation: 1, World: world, LossScale: 1,
		Model: []byte(`{}`), Units: units()}
	for rank := range world {
		var ranges []checkpoint.Range
		for _, u := range m.Units {
			l, err := shard.NewLayout(u.Elems, world)
			if err != nil {
				return nil, err
			}
			lo, hi := l.Owned(rank)
			r := checkpoint.Range{Unit: u.Name, Lo: lo}
			for f := range r.Fields {
				for e := lo; e < hi; e++ {
					r.Fields[f] = append(r.Fields[f], value(checkpoint.Field(f), e))
				}
			}
			ranges = append(ranges, r)
		}
		p, err := checkpoint.WritePart(ctx, s, m, rank, ranges)
		if err != nil {
			return nil, err
		}
		m.Parts = append(m.Parts, p)
	}
	b, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	if committed {
		return checkpoint.PutManifest(ctx, s, b)
	}
	return checkpoint.PutUncommitted(ctx, s, b)
}

func save(t *testing.T, s checkpoint.Store, step int64, world int, committed bool) *checkpoint.Manifest {
	t.Helper()
	m, err := Save(ctx, s, step, world, committed)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Check reads the newest checkpoint as two ranks would, and compares every value.
func Check(t testing.TB, s checkpoint.Store, step int64) {
	t.Helper()
	m, damaged, err := checkpoint.Newest(ctx, s)
	if err != nil || len(damaged) > 0 || m.Step != step {
		t.Fatalf("newest: %+v, damaged %v, %v: want step %d", m, damaged, err, step)
	}
	r := checkpoint.Open(s, m)
	defer r.Close()
	var wg sync.WaitGroup
	for rank := range 2 {
		wg.Go(func() {
			for _, u := range m.Units {
				half := u.Elems / 2
				for f := range checkpoint.Fields {
					dst := make([]float32, half)
					if err := r.Read(ctx, u.Name, f, rank*half, (rank+1)*half, dst); err != nil {
						t.Error(err)
						return
					}
					for i, got := range dst {
						if want := value(f, rank*half+i); got != want {
							t.Errorf("%s of %s, element %d: got %v, want %v", f, u.Name, rank*half+i, got, want)
							return
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if faults := checkpoint.Verify(ctx, s, m); len(faults) > 0 {
		t.Errorf("verify: %v", faults)
	}
}

func otherSize(t *testing.T, s checkpoint.Store) {
	save(t, s, 4, 3, true)
	Check(t, s, 4)
}

func missingPart(t *testing.T, s checkpoint.Store) {
	save(t, s, 4, 2, true)
	m := save(t, s, 8, 2, true)
	if err := s.Delete(ctx, m.Parts[1].Key); err != nil {
		t.Fatal(err)
	}
	faults := checkpoint.Verify(ctx, s, m)
	if len(faults) != 1 || !errors.Is(faults[0], checkpoint.ErrCorrupt) || !strings.Contains(faults[0].Error(), "part 1 of step 8") {
		t.Errorf("verify: %v, want part 1 of step 8", faults)
	}
	newest, damaged, err := checkpoint.Newest(ctx, s)
	if err != nil || newest.Step != 4 || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), "part 1 of step 8") {
		t.Errorf("newest: %+v, damaged %v, %v: want step 4 and what is wrong with step 8", newest, damaged, err)
	}
}

const grace = time.Hour

func sweep(t *testing.T, s checkpoint.Store, keep int, now time.Time) []string {
	t.Helper()
	if err := checkpoint.Sweep(ctx, s, keep, grace, now); err != nil {
		t.Fatal(err)
	}
	return Keys(t, s, "")
}

// keysOf is what a manifest names and its own key, which List gives.
func keysOf(t *testing.T, s checkpoint.Store, manifests ...*checkpoint.Manifest) []string {
	t.Helper()
	list, err := checkpoint.List(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{}
	for _, m := range manifests {
		for _, e := range list {
			if e.Step == m.Step && e.Manifest != nil {
				keys = append(keys, e.Key)
			}
		}
		for _, p := range m.Parts {
			keys = append(keys, p.Key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func sweepKeeps(t *testing.T, s checkpoint.Store) {
	var m []*checkpoint.Manifest
	for step := int64(1); step <= 4; step++ {
		m = append(m, save(t, s, step, 2, true))
	}
	want := keysOf(t, s, m[2], m[3])
	if got := sweep(t, s, 2, time.Now()); !slices.Equal(got, want) {
		t.Errorf("keep 2: left %v, want %v", got, want)
	}
	// A second sweep, much later, finds nothing more.
	if got := sweep(t, s, 2, time.Now().Add(2*grace)); !slices.Equal(got, want) {
		t.Errorf("again: left %v, want %v", got, want)
	}
	want = keysOf(t, s, m[3])
	if got := sweep(t, s, 0, time.Now()); !slices.Equal(got, want) {
		t.Errorf("keep 0: left %v, want the newest, %v", got, want)
	}
	Check(t, s, 4)
}

func sweepCollects(t *testing.T, s checkpoint.Store) {
	before := save(t, s, 4, 2, false) // step 8 is committed, so nobody adopts it
	newest := save(t, s, 8, 2, true)
	ahead := save(t, s, 12, 2, false) // may yet be adopted
	orphans := []string{
		"step-0000000004/gen-1-part-0-of-3-00.safetensors",
		"step-0000000008/gen-1-part-0-of-3-00.safetensors",
		"step-0000000016/gen-1-part-0-of-3-00.safetensors",
	}
	for _, key := range orphans {
		put(t, s, key, []byte("x"))
	}
	foreign := []string{"notes.txt", "step-0000000004/notes.txt", "step-x/gen-1"}
	for _, key := range foreign {
		put(t, s, key, []byte("x"))
	}
	all := append(keysOf(t, s, before, newest, ahead), append(orphans, foreign...)...)
	slices.Sort(all)
	if got := sweep(t, s, 1, time.Now()); !slices.Equal(got, all) {
		t.Errorf("within the grace: left %v, want all of %v", got, all)
	}
	want := append(keysOf(t, s, newest, ahead), foreign...)
	slices.Sort(want)
	if got := sweep(t, s, 1, time.Now().Add(2*grace)); !slices.Equal(got, want) {
		t.Errorf("after it: left %v, want %v", got, want)
	}
	// What cannot be read may be a newer zerofleet's.
	put(t, s, "step-0000000016/gen-2-manifest-00.json", []byte(`{"version":99}`))
	put(t, s, orphans[2], []byte("x"))
	want = append(want, "step-0000000016/gen-2-manifest-00.json", orphans[2])
	slices.Sort(want)
	if got := sweep(t, s, 1, time.Now().Add(2*grace)); !slices.Equal(got, want) {
		t.Errorf("beside an unreadable manifest: left %v, want %v", got, want)
	}
}

func removed(t *testing.T, s checkpoint.Store) {
	one, two := save(t, s, 1, 2, true), save(t, s, 2, 2, true)
	want := keysOf(t, s, one)
	if err := checkpoint.Remove(ctx, s, two.Step); err != nil {
		t.Fatal(err)
	}
	if got := Keys(t, s, ""); !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if err := checkpoint.Remove(ctx, s, two.Step); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "step 2") {
		t.Errorf("again: %v, want %v, with the step", err, fs.ErrNotExist)
	}
	Check(t, s, 1)
}
