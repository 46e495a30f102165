package train

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
)

// rankOf is a checkpointer of a rank without a state, which has begun checkpoints of steps 0 to begun-1.
func rankOf(rank, world, begun int, commit CommitManifest) *checkpointer {
	c := &checkpointer{t: &Trainer{rank: rank, world: world}, heard: map[int64]*gathered{}, begun: int64(begun) - 1, committed: -1,
		commits: &commitQueue{commit: commit, troubled: func(int64, error, bool) {}}}
	for step := range int64(begun) {
		c.heard[step] = &gathered{own: make([][]uint64, world), kept: make([][]uint64, world), manifest: checkpoint.Manifest{
			Version: checkpoint.Version, Job: "j", Step: step, World: world, Generation: 1, LossScale: 1,
			Units: []checkpoint.Unit{{Name: "u"}}, Parts: make([]checkpoint.Part, world)}}
		for r := range world {
			c.heard[step].manifest.Parts[r].Rank = r
		}
	}
	return c
}

func somePart(rank int) *checkpoint.Part {
	return &checkpoint.Part{Rank: rank, Key: "k", Bytes: 1, HeadBytes: 1, SHA256: strings.Repeat("0", 64)}
}

func encoded(t *testing.T, notes ...note) []byte {
	t.Helper()
	b, err := json.Marshal(notes)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// drain waits until nothing is being committed.
func drain(ctx context.Context, c *checkpointer) {
	for c.commits.running != nil {
		<-c.commits.news()
		c.poll(ctx)
	}
}

// Two checkpoints whose last parts are told of in one record are committed in their order. They used to be in any, and
// the earlier one was refused after the later, which ended the run.
func TestCheckpointsOfOneRecordAreCommittedInOrder(t *testing.T) {
	for range 20 {
		var got []int64
		c := rankOf(0, 1, 4, func(_ context.Context, m *checkpoint.Manifest, _ []byte) error {
			got = append(got, m.Step)
			return nil
		})
		var notes []note
		for step := range int64(4) {
			notes = append(notes, note{Step: step, Part: somePart(0)})
		}
		if _, err := c.hear(t.Context(), [][]byte{encoded(t, notes...)}); err != nil {
			t.Fatal(err)
		}
		drain(t.Context(), c)
		if !slices.Equal(got, []int64{0, 1, 2, 3}) || c.committed != 3 || c.unfinished() {
			t.Fatalf("committed in the order %v, the newest known is %d", got, c.committed)
		}
	}
}

// What a rank has given up is not committed, and nobody waits for it; the next one is.
func TestAPartThatIsGivenUpIsNotWaitedFor(t *testing.T) {
	var got []int64
	commit := func(_ context.Context, m *checkpoint.Manifest, _ []byte) error {
		got = append(got, m.Step)
		return nil
	}
	ranks := []*checkpointer{rankOf(0, 2, 2, commit), rankOf(1, 2, 2, nil)}
	notes := [][]byte{
		encoded(t, note{Step: 0, Part: somePart(0)}, note{Step: 1, Part: somePart(0)}),
		encoded(t, note{Step: 0, GivenUp: true}, note{Step: 1, Part: somePart(1)}),
	}
	for _, c := range ranks {
		if _, err := c.hear(t.Context(), notes); err != nil {
			t.Fatal(err)
		}
		if len(c.heard) > 0 {
			t.Errorf("rank %d still waits for %v", c.t.rank, c.heard)
		}
	}
	drain(t.Context(), ranks[0])
	if !slices.Equal(got, []int64{1}) {
		t.Errorf("committed %v, want step 1 alone", got)
	}
	if ranks[1].committed != -1 || !ranks[1].unfinished() {
		t.Error("rank 1 takes for committed what nobody has told it of")
	}
	if _, err := ranks[1].hear(t.Context(), [][]byte{encoded(t, note{Step: 1, Committed: true}), nil}); err != nil || ranks[1].unfinished() {
		t.Errorf("rank 1 was told that step 1 exists: unfinished %v, %v", ranks[1].unfinished(), err)
	}
}

// A commitment that fails is tried again, and given up for a later one; a refused one is over.
func TestACommitmentThatFails(t *testing.T) {
	failing, tries := errors.New("no answer"), make(chan int64, 100)
	q := &commitQueue{troubled: func(int64, error, bool) {}, commit: func(_ context.Context, m *checkpoint.Manifest, _ []byte) error {
		tries <- m.Step
		if m.Step == 2 {
			return ErrRefused
		}
		return failing
	}}
	add := func(step int64) *errand {
		m := rankOf(0, 1, 3, nil).heard[step].manifest
		m.Parts[0] = *somePart(0)
		if err := q.add(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
		return q.running
	}
	first := add(0)
	<-first.failed
	if got := q.poll(t.Context()); len(got) > 0 || !errors.Is(q.failing(), failing) {
		t.Errorf("committed %v, failing %v", got, q.failing())
	}
	if add(1) != first {
		t.Error("two are under way")
	}
	if got := q.poll(t.Context()); len(got) > 0 || !first.over() || len(q.queue) != 1 || q.queue[0].manifest.Step != 1 {
		t.Errorf("committed %v, queue %v: want step 1 in it alone, and step 0 given up", got, q.queue)
	}
	<-q.running.failed
	add(2)
	q.poll(t.Context())
	<-q.running.ended
	if got := q.poll(t.Context()); len(got) > 0 || q.running != nil || !errors.Is(q.failing(), ErrRefused) {
		t.Errorf("committed %v, failing %v: want that it is refused", got, q.failing())
	}
	q.close()
}
