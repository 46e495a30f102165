package train_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
)

// refusing is a store that takes no object whose key has all of words.
type refusing struct {
	checkpoint.Store
	words []string
}

var errNoRoom = errors.New("no room")

func (s refusing) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	for _, w := range s.words {
		if !strings.Contains(key, w) {
			return s.Store.Put(ctx, key, write)
		}
	}
	return errNoRoom
}

func committedSteps(t *testing.T, s checkpoint.Store) (steps []int64) {
	t.Helper()
	list, err := checkpoint.List(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Committed && e.Err == nil {
			steps = append(steps, e.Step)
		}
	}
	return steps
}

// One rank's part, or the manifest, of one step finds no room: that checkpoint is not there, the others are, and nobody
// waits for it.
func TestTrainingGoesOnWhenAStoreFails(t *testing.T) {
	h := tiny()
	h.steps, h.world, h.every = 4, 3, 1
	want := h.play(t)
	for name, words := range map[string][]string{"a part": {"step-0000000002/", "part-1-of-3"}, "the manifest": {"step-0000000002/", ".json"}} {
		dir := checkpoint.Dir(t.TempDir())
		h.store = refusing{dir, words}
		if got := h.play(t); got.hash != want.hash {
			t.Errorf("%s: hash %.16s, want %.16s", name, got.hash, want.hash)
		}
		if steps := committedSteps(t, dir); slices.Contains(steps, 2) || !slices.Contains(steps, 4) {
			t.Errorf("%s: checkpoints of steps %v", name, steps)
		}
	}
}

// The last checkpoint finds no room: all ranks end with the error, which says whose, and the one before is kept.
func TestTheLastCheckpointFails(t *testing.T) {
	h := tiny()
	h.steps, h.world, h.every = 3, 3, 1
	for name, words := range map[string][]string{"rank 1, checkpoint of step 3: ": {"step-0000000003/", "part-1-of-3"}, "commit checkpoint: ": {"step-0000000003/", ".json"}} {
		dir := checkpoint.Dir(t.TempDir())
		h.store = refusing{dir, words}
		_, err := h.try(t)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), errNoRoom.Error()) {
			t.Errorf("%q: got %v", name, err)
		}
		if m, damaged, err := checkpoint.Newest(t.Context(), dir); err != nil || m.Step != 2 || len(damaged) > 0 {
			t.Errorf("%q: newest is %+v, %v, damaged %v: want step 2", name, m, err, damaged)
		}
	}
}

// A store that takes the last part at the second try is waited for.
func TestTheLastCheckpointIsTriedAgain(t *testing.T) {
	h := tiny()
	h.steps, h.world, h.retry = 2, 2, 1<<40
	want := h.play(t)
	tries := 0
	h.store = secondTry{checkpoint.Dir(t.TempDir()), &tries}
	if got := h.play(t); got.hash != want.hash || tries != 2 {
		t.Errorf("hash %.16s after %d tries, want %.16s after 2", got.hash, tries, want.hash)
	}
}

// secondTry takes rank 1's parts at the second try.
type secondTry struct {
	checkpoint.Store
	tries *int // only rank 1's errand counts
}

func (s secondTry) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	if strings.Contains(key, "part-1-of") {
		if *s.tries++; *s.tries == 1 {
			return errNoRoom
		}
	}
	return s.Store.Put(ctx, key, write)
}
