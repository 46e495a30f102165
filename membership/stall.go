package membership

import (
	"time"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Stall is a collective operation that has made no progress for a while, as one rank sees it.
type Stall struct {
	Generation uint64
	Operation  string    // in words
	Since      time.Time // its last progress
	Causes     []StallCause
}

// StallCause is one rank that a stalled operation waits for.
type StallCause struct {
	Rank   int
	Worker string
	What   string        // what it does not do: "has not arrived at"
	Last   string        // its last known operation, in words
	Silent time.Duration // since anything was heard from it; 0: that is recent
}

// Proto is s on the wire, at this moment.
func (s *Stall) Proto(now time.Time) *zerofleetv1.Stall {
	p := &zerofleetv1.Stall{Generation: s.Generation, Operation: s.Operation, WaitedNanos: int64(now.Sub(s.Since))}
	for _, c := range s.Causes {
		p.Causes = append(p.Causes, &zerofleetv1.StallCause{Rank: uint32(c.Rank), Worker: c.Worker, What: c.What, Last: c.Last, SilentNanos: int64(c.Silent)})
	}
	return p
}

// ReportStall tells the coordinator what this worker waits for in vain; nil: nothing. It goes with the next renewal, which is
// at once when that begins, ends, or is another operation. It never waits.
func (s *Session) ReportStall(stall *Stall) {
	s.mu.Lock()
	was := s.stall
	s.stall = stall
	s.mu.Unlock()
	if was == nil && stall == nil || was != nil && stall != nil && was.Generation == stall.Generation && was.Operation == stall.Operation {
		return
	}
	select {
	case s.renewNow <- struct{}{}:
	default:
	}
}

// stalled is what the next renewal tells.
func (s *Session) stalled() *zerofleetv1.Stall {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stall == nil {
		return nil
	}
	return s.stall.Proto(time.Now())
}

// StallFromProto is a stall that was told now.
func StallFromProto(p *zerofleetv1.Stall, now time.Time) *Stall {
	if p == nil {
		return nil
	}
	s := &Stall{Generation: p.GetGeneration(), Operation: p.GetOperation(), Since: now.Add(-time.Duration(p.GetWaitedNanos()))}
	for _, c := range p.GetCauses() {
		s.Causes = append(s.Causes, StallCause{Rank: int(c.GetRank()), Worker: c.GetWorker(), What: c.GetWhat(), Last: c.GetLast(), Silent: time.Duration(c.GetSilentNanos())})
	}
	return s
}
