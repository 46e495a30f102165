package local

import (
	"context"
	"encoding/binary"
	"math"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

type sumAcc []float32

func (a sumAcc) Len() int { return len(a) }
func (a sumAcc) Fold(leaf, off int, src []byte, t kernels.DType) error {
	for i := range len(src) / 4 {
		a[off+i] += math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
	return nil
}

func f32(v ...float32) collective.Buffer {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return collective.Buffer{Bytes: b, Type: kernels.F32}
}

func TestReduceScatterFoldsInRankOrder(t *testing.T) {
	// (1e8 + 1) - 1e8 is 0 in float32, (1e8 - 1e8) + 1 is 1: the order shows.
	leaves := []collective.Buffer{f32(1e8, 1), f32(1, 2)}
	groups := New(2)
	var wg sync.WaitGroup
	accs := []sumAcc{{0}, {0}}
	for r, g := range groups {
		wg.Go(func() {
			ctx := context.Background()
			if err := g.ReduceScatter(ctx, "x", accs[r], leaves[r], 0, 2).Wait(ctx); err != nil {
				t.Error(err)
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if accs[0][0] != 1e8 || accs[1][0] != 3 {
		t.Errorf("got %v, want 1e8 and 3", accs)
	}
}
