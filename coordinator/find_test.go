package coordinator

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/checkpoint/checkpointtest"
)

func TestFindInAnObjectStore(t *testing.T) {
	for where, want := range map[string][2]string{
		"s3://b":                                     {"s3://b", ""},
		"s3://b/runs/one/":                           {"s3://b/runs/one", ""},
		"s3://b/p?region=r&endpoint=http://h/x":      {"s3://b/p?region=r&endpoint=http://h/x", ""},
		"gs://b/p/step-0000000004":                   {"gs://b/p", "step-0000000004/"},
		"gs://b/step-0000000004/?x=1":                {"gs://b?x=1", "step-0000000004/"},
		"azblob://c/p/step-0000000004/gen-1-m.json":  {"azblob://c/p", "step-0000000004/gen-1-m.json"},
		"s3://b/step-0000000004/gen-1-m.json?role=a": {"s3://b?role=a", "step-0000000004/gen-1-m.json"},
	} {
		f, err := find(where)
		if err != nil {
			t.Fatal(err)
		}
		if f.store != want[0] || f.prefix != want[1] || f.run != "" {
			t.Errorf("%s: store %q, prefix %q, run %q: want %q and %q", where, f.store, f.prefix, f.run, want[0], want[1])
		}
	}
}

func TestRemoveCheckpoints(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := checkpoint.Dir(dir)
	for step := int64(1); step <= 4; step++ {
		if _, err := checkpointtest.Save(ctx, s, step, 1, true); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (steps []int64) {
		list, err := Checkpoints(ctx, dir, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Fault != "" {
				t.Errorf("step %d: %s", c.Step, c.Fault)
			}
			steps = append(steps, c.Step)
		}
		return steps
	}
	if err := RemoveCheckpoints(ctx, dir, []int64{2, 9}); !IsBadInput(err) || !strings.Contains(err.Error(), "no checkpoint of step 9") {
		t.Errorf("got %v, want that there is no step 9", err)
	}
	if got := left(); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Errorf("left %v, want all", got)
	}
	if err := RemoveCheckpoints(ctx, dir, []int64{4, 2, 4}); err != nil {
		t.Fatal(err)
	}
	if got := left(); !slices.Equal(got, []int64{1, 3}) {
		t.Errorf("left %v, want 1 and 3", got)
	}
	if err := RemoveCheckpoints(ctx, filepath.Join(dir, "step-0000000001"), []int64{1}); !IsBadInput(err) {
		t.Errorf("a step's folder: got %v, want that it is refused", err)
	}
}
