package grouptest

import (
	"context"
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

func buffer(n int) collective.Buffer {
	return collective.Buffer{Bytes: make([]byte, 4*n), Type: kernels.F32}
}

// testMismatch lets ranks disagree: every rank learns which two did, and on what.
func testMismatch(t *testing.T, open Open) {
	post := map[string]func(ctx context.Context, g collective.Group) *collective.Pending{
		"all-gather #2 block.3 [4 f32]": func(ctx context.Context, g collective.Group) *collective.Pending {
			return g.AllGather(ctx, "block.3", buffer(4*g.Size()), buffer(4))
		},
		"all-gather #2 block.4 [4 f32]": func(ctx context.Context, g collective.Group) *collective.Pending {
			return g.AllGather(ctx, "block.4", buffer(4*g.Size()), buffer(4))
		},
		"all-gather #2 block.3 [5 f32]": func(ctx context.Context, g collective.Group) *collective.Pending {
			return g.AllGather(ctx, "block.3", buffer(5*g.Size()), buffer(5))
		},
		"all-gather #2 block.3 [4 bf16]": func(ctx context.Context, g collective.Group) *collective.Pending {
			b := func(n int) collective.Buffer {
				return collective.Buffer{Bytes: make([]byte, 2*n), Type: kernels.BF16}
			}
			return g.AllGather(ctx, "block.3", b(4*g.Size()), b(4))
		},
		"all-reduce #2 block.3 [4 f32]": func(ctx context.Context, g collective.Group) *collective.Pending {
			return g.AllReduce(ctx, "block.3", buffer(4))
		},
		"reduce-scatter #2 block.3 of leaves 7 to 9 [4 f32]": func(ctx context.Context, g collective.Group) *collective.Pending {
			return g.ReduceScatter(ctx, "block.3", NewAccumulator(4), buffer(4*g.Size()), 7, g.Size())
		},
		"broadcast #2 block.3 of rank 1 [4 f32]": func(ctx context.Context, g collective.Group) *collective.Pending {
			return g.Broadcast(ctx, "block.3", 1, buffer(4))
		},
	}
	const usual = "all-gather #2 block.3 [4 f32]"
	for name, odd := range post {
		if name == usual {
			continue
		}
		t.Run(name, func(t *testing.T) {
			groups := openAll(t, open, 3)
			ctx := patient(t)
			eachRank(groups, func(r int, g collective.Group) {
				do := post[usual]
				if r == 1 {
					do = odd
				}
				_, err := g.Exchange(ctx, nil)
				if err == nil { // else the others were faster, and disagree already
					err = do(ctx, g).Wait(ctx)
				}
				var m *collective.Mismatch
				if !errors.As(err, &m) {
					t.Errorf("rank %d: got %v, want a *Mismatch", r, err)
					return
				}
				if m.RankA != 1 && m.RankB != 1 {
					t.Errorf("rank %d: %v does not name rank 1", r, err)
				}
				for _, part := range []string{"rank 1 is at " + name, " is at " + usual} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("rank %d: %q does not say %q", r, err, part)
					}
				}
				if again := g.AllReduce(ctx, "later", buffer(1)).Wait(ctx); !errors.As(again, &m) {
					t.Errorf("rank %d: a later operation ends with %v, want the first error", r, again)
				}
			})
		})
	}
	t.Run("transfer", func(t *testing.T) {
		groups := openAll(t, open, 2)
		ctx := patient(t)
		send, recv := groups[0].Send(ctx, "shard", 1, buffer(4)), groups[1].Recv(ctx, "shard", 0, buffer(5))
		for r, p := range []*collective.Pending{send, recv} {
			err := p.Wait(ctx)
			var m *collective.Mismatch
			if !errors.As(err, &m) || !strings.Contains(err.Error(), "send #1 shard to rank 1 [4 f32]") || !strings.Contains(err.Error(), "recv #1 shard from rank 0 [5 f32]") {
				t.Errorf("rank %d: got %v, want a *Mismatch of the send and the receive", r, err)
			}
		}
	})
}

var absent2 = regexp.MustCompile(`rank 2( \([^)]*\))? has not arrived`)

// testCancel cancels one rank's operation: it learns whom it waited for, the others that it
// gave up.
func testCancel(t *testing.T, open Open) {
	groups := openAll(t, open, 3)
	ctx, cancel := context.WithCancel(patient(t))
	first := groups[0].AllGather(ctx, "block.3", buffer(12), buffer(4))
	second := groups[1].AllGather(patient(t), "block.3", buffer(12), buffer(4))
	cancel()
	err := first.Wait(patient(t))
	if !errors.Is(err, context.Canceled) || !absent2.MatchString(err.Error()) {
		t.Errorf("rank 0: got %v, want context.Canceled and that rank 2 has not arrived", err)
	}
	for r, p := range []*collective.Pending{second, groups[2].AllGather(patient(t), "block.3", buffer(12), buffer(4))} {
		err := p.Wait(patient(t))
		var pe *collective.PeerError
		if !errors.As(err, &pe) || pe.Rank != 0 || !errors.Is(err, collective.ErrPeer) || errors.Is(err, context.Canceled) {
			t.Errorf("rank %d: got %v, want a *PeerError of rank 0 alone", r+1, err)
		}
	}
	// A context that only waits ends the wait, not the operation.
	groups = openAll(t, open, 2)
	short, cancel := context.WithCancel(context.Background())
	cancel()
	p := groups[0].AllReduce(patient(t), "sum", buffer(1))
	if err := p.Wait(short); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: got %v, want context.Canceled", err)
	}
	wait(t, groups[1].AllReduce(patient(t), "sum", buffer(1)), "rank 1")
	wait(t, p, "rank 0, after a wait that was given up")
}

// testPeerCloses lets a rank leave while others need it.
func testPeerCloses(t *testing.T, open Open) {
	groups := openAll(t, open, 3)
	p := groups[0].AllGather(patient(t), "block.3", buffer(12), buffer(4))
	own := groups[2].Recv(patient(t), "shard", 1, buffer(4))
	if err := groups[2].Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := own.Wait(patient(t)); !errors.Is(err, collective.ErrClosed) {
		t.Errorf("rank 2's own operation: got %v, want ErrClosed", err)
	}
	if err := groups[2].AllReduce(patient(t), "later", buffer(1)).Wait(patient(t)); !errors.Is(err, collective.ErrClosed) {
		t.Errorf("rank 2's later operation: got %v, want ErrClosed", err)
	}
	var pe *collective.PeerError
	if err := p.Wait(patient(t)); !errors.As(err, &pe) || pe.Rank != 2 || errors.Is(err, collective.ErrClosed) {
		t.Errorf("rank 0: got %v, want a *PeerError of rank 2", err)
	}
	if err := groups[1].AllReduce(patient(t), "later", buffer(1)).Wait(patient(t)); !errors.Is(err, collective.ErrPeer) {
		t.Errorf("rank 1's later operation: got %v, want ErrPeer", err)
	}
}

// failing is an accumulator that fails at its second leaf.
type failing struct{ *Accumulator }

var errFull = errors.New("accumulator is full")

func (f failing) Fold(leaf, off int, src []byte, t kernels.DType) error {
	if leaf == 1 {
		return errFull
	}
	return f.Accumulator.Fold(leaf, off, src, t)
}

func testFoldFails(t *testing.T, open Open) {
	groups := openAll(t, open, 2)
	eachRank(groups, func(r int, g collective.Group) {
		var acc collective.Accumulator = NewAccumulator(3000)
		if r == 1 {
			acc = failing{NewAccumulator(3000)}
		}
		src := values(rand.New(rand.NewPCG(1, 1)), 6000, kernels.F32)
		err := g.ReduceScatter(patient(t), "block.0", acc, src, 0, 2).Wait(patient(t))
		if r == 1 && !errors.Is(err, errFull) {
			t.Errorf("rank 1: got %v, want the accumulator's error", err)
		}
		// Rank 0's part may be over before it hears of rank 1's.
		if r == 0 && err != nil && !errors.Is(err, collective.ErrPeer) {
			t.Errorf("rank 0: got %v, want nil or ErrPeer", err)
		}
		if err := g.AllReduce(patient(t), "later", buffer(1)).Wait(patient(t)); err == nil {
			t.Errorf("rank %d: a later operation ended well", r)
		}
	})
}

// testClose closes while nothing is pending, twice; what was completed is delivered.
func testClose(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	w := len(groups)
	const n = 30000
	all := values(rng, n*w, kernels.F32)
	eachRank(groups, func(r int, g collective.Group) {
		dst := buffer(n * w)
		if wait(t, g.AllGather(ctx, "last", dst, slice(all, r*n, (r+1)*n)), "rank %d", r) && string(dst.Bytes) != string(all.Bytes) {
			t.Errorf("rank %d: gathered other bytes than were given", r)
		}
		begun := time.Now()
		for range 2 {
			if err := g.Close(); err != nil {
				t.Errorf("rank %d: close: %v", r, err)
			}
		}
		if took := time.Since(begun); took > patience/2 {
			t.Errorf("rank %d: close took %s", r, took)
		}
	})
}

// testInvalid makes calls that are wrong by themselves: an error, and the Group goes on.
func testInvalid(t *testing.T, groups []collective.Group, _ *rand.Rand) {
	w := len(groups)
	g := groups[0]
	ctx := patient(t)
	for name, p := range map[string]*collective.Pending{
		"gather of a wrong length":    g.AllGather(ctx, "x", buffer(w*3+1), buffer(3)),
		"gather of two types":         g.AllGather(ctx, "x", buffer(w*4), collective.Buffer{Bytes: make([]byte, 4), Type: kernels.BF16}),
		"gather without a type":       g.AllGather(ctx, "x", collective.Buffer{}, collective.Buffer{}),
		"gather of half an element":   g.AllGather(ctx, "x", collective.Buffer{Bytes: make([]byte, 3), Type: kernels.BF16}, collective.Buffer{Bytes: make([]byte, 3), Type: kernels.BF16}),
		"a long name":                 g.AllGather(ctx, strings.Repeat("x", collective.MaxNameBytes+1), buffer(w), buffer(1)),
		"reduction of a wrong length": g.ReduceScatter(ctx, "x", NewAccumulator(2), buffer(2*w+1), 0, w),
		"reduction without source":    g.ReduceScatter(ctx, "x", NewAccumulator(2), collective.Buffer{}, 0, w),
		"reduction without target":    g.ReduceScatter(ctx, "x", nil, buffer(2*w), 0, w),
		"reduction of i32":            g.ReduceScatter(ctx, "x", NewAccumulator(2), collective.Buffer{Bytes: make([]byte, 8*w), Type: kernels.I32}, 0, w),
		"reduction by nobody":         g.ReduceScatter(ctx, "x", NewAccumulator(2), buffer(2*w), 0, 0),
		"reduction by too many":       g.ReduceScatter(ctx, "x", NewAccumulator(2), buffer(2*w), 0, w+1),
		"reduction of leaf -1":        g.ReduceScatter(ctx, "x", NewAccumulator(2), buffer(2*w), -1, w),
		"all-reduce of bf16":          g.AllReduce(ctx, "x", collective.Buffer{Bytes: make([]byte, 4), Type: kernels.BF16}),
		"send to itself":              g.Send(ctx, "x", 0, buffer(1)),
		"send to nobody":              g.Send(ctx, "x", w, buffer(1)),
		"receive from nobody":         g.Recv(ctx, "x", -1, buffer(1)),
		"broadcast of a missing root": g.Broadcast(ctx, "x", w, buffer(1)),
		"broadcast without a type":    g.Broadcast(ctx, "x", 0, collective.Buffer{}),
	} {
		if err := p.Wait(ctx); !errors.Is(err, collective.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	if _, err := g.Exchange(ctx, make([]byte, collective.MaxRecordBytes+1)); !errors.Is(err, collective.ErrInvalid) {
		t.Errorf("exchange of a long record: got %v, want ErrInvalid", err)
	}
	eachRank(groups, func(r int, g collective.Group) {
		wait(t, g.AllReduce(ctx, "after", buffer(1)), "rank %d, after invalid calls", r)
	})
}
