package worker

import (
	"context"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/membership"
)

const (
	// stallAfter is how long an operation makes no progress before that is told: longer than ranks that compute the same are
	// apart, and short enough that a person who asks learns of it.
	stallAfter = time.Second
	stallLook  = 250 * time.Millisecond
)

// tellStalls tells the coordinator whom this rank waits for, until ctx ends. What it told last stays told: when the
// generation ends because of that, it is the cause.
func tellStalls(ctx context.Context, session *membership.Session, group collective.Group) {
	tick := time.NewTicker(stallLook)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s := group.Stalled(stallAfter)
		if ctx.Err() == nil {
			session.ReportStall(stallOf(s, group.Generation(), time.Now()))
		}
	}
}

// stallOf is s as the coordinator is told; nil for none.
func stallOf(s *collective.StallError, generation uint64, now time.Time) *membership.Stall {
	if s == nil {
		return nil
	}
	out := &membership.Stall{Generation: generation, Operation: s.Op.String(), Since: now.Add(-s.Waited)}
	for _, w := range s.Waiting {
		out.Causes = append(out.Causes, membership.StallCause{Rank: w.Rank, Worker: w.ID, What: w.What(), Last: w.LastOp, Silent: w.Silent})
	}
	return out
}
