package grouptest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/collective"
)

// testStalled has one rank come late: the others say whom they wait for, and afterwards who was the last.
func testStalled(t *testing.T, open Open) {
	const world, late = 3, 1
	groups := openAll(t, open, world)
	ctx := patient(t)
	post := func(r int) *collective.Pending { return groups[r].AllGather(ctx, "late", buffer(world*16), buffer(16)) }
	for r, g := range groups {
		if s := g.Stalled(0); s != nil {
			t.Errorf("rank %d stalls before anything was posted: %v", r, s)
		}
	}
	pending := make([]*collective.Pending, world)
	for r := range groups {
		if r != late {
			pending[r] = post(r)
		}
	}
	for r, g := range groups {
		if r == late {
			continue
		}
		// The other one that is here may be named until its announcement has come.
		var s *collective.StallError
		look := time.NewTicker(time.Millisecond)
		for s == nil || len(s.Waiting) != 1 {
			select {
			case <-look.C:
				s = g.Stalled(0)
			case <-ctx.Done():
				t.Fatalf("rank %d says %v, want that it waits for rank %d alone", r, s, late)
			}
		}
		look.Stop()
		if w := s.Waiting[0]; w.Rank != late || w.Arrived || s.Op.Name != "late" || s.Op.Kind != collective.KindAllGather || s.Waited <= 0 {
			t.Errorf("rank %d says %v, want that rank %d has not arrived at the all-gather", r, s, late)
		}
		if s := g.Stalled(patience); s != nil {
			t.Errorf("rank %d says after less than %s: %v", r, patience, s)
		}
	}
	posted := time.Now()
	pending[late] = post(late)
	for r, p := range pending {
		if err := p.Wait(ctx); err != nil {
			t.Fatalf("rank %d: %v", r, err)
		}
		rec := p.Record()
		if rec.Name != "late" || rec.Ended.IsZero() || rec.Posted.After(rec.Ended) {
			t.Errorf("rank %d: record %+v", r, rec)
		}
		// The late one may have heard of the others before it came, or not yet.
		if r != late && (rec.Last != late || rec.Arrived.Before(posted)) {
			t.Errorf("rank %d waited for rank %d until %s, want for rank %d after %s", r, rec.Last, rec.Arrived, late, posted)
		}
		if s := groups[r].Stalled(0); s != nil {
			t.Errorf("rank %d stalls after the end: %v", r, s)
		}
	}

	// A Group that fails because of it still says so.
	abandoned, abandon := context.WithCancel(ctx)
	p := groups[0].AllGather(abandoned, "later", buffer(world*16), buffer(16))
	abandon()
	if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that it was canceled", err)
	}
	s := groups[0].Stalled(0)
	if s == nil || s.Op.Name != "later" || len(s.Waiting) == 0 || s.Waiting[0].Arrived {
		t.Errorf("after the failure: %v, want that ranks have not arrived at the all-gather", s)
	}
}
