package train

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
)

// Two checkpoints whose last parts are told of in one record are committed in their order. They used to be in any, and
// the earlier one was refused after the later, which ended the run.
func TestCheckpointsOfOneRecordAreCommittedInOrder(t *testing.T) {
	for range 20 {
		var got []int64
		c := &checkpointer{t: &Trainer{world: 1}, heard: map[int64]*gathered{},
			commit: func(_ context.Context, m *checkpoint.Manifest, _ []byte) error {
				got = append(got, m.Step)
				return nil
			}}
		var notes []note
		for step := range int64(4) {
			c.heard[step] = &gathered{manifest: checkpoint.Manifest{Version: checkpoint.Version, Job: "j", Step: step, World: 1, Generation: 1,
				LossScale: 1, Units: []checkpoint.Unit{{Name: "u"}}, Parts: make([]checkpoint.Part, 1)}}
			notes = append(notes, note{Step: step, Part: checkpoint.Part{Key: "k", Bytes: 1, HeadBytes: 1, SHA256: string(make([]byte, 64))}})
		}
		b, err := json.Marshal(notes)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.hear(t.Context(), [][]byte{b}); err != nil {
			t.Fatal(err)
		}
		if err := c.committed(true); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, []int64{0, 1, 2, 3}) {
			t.Fatalf("committed in the order %v", got)
		}
	}
}
