package coordinator

import (
	"time"

	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// account is where a run's time went, from the lines of its steps. A step's own time is what its worker needed from the
// commit before, or from the beginning of its generation: what lies between two steps beside that is lost, to the waiting
// for a recovery, to a step that was made again, or to a suspension.
type account struct {
	after   uint64        // steps of later generations are this run's
	told    time.Time     // when the newest step was committed, by its worker's clock
	wall    time.Duration // from the first step's beginning to the newest one's commit
	useful  time.Duration // the steps' own time
	workers time.Duration // wall, times the workers that there were
}

// step takes a line of metrics.jsonl.
func (a *account) step(s stepJSON) {
	if s.Generation <= a.after || s.Time.IsZero() || s.TokensPerSecond <= 0 {
		return
	}
	own := time.Duration(float64(s.Tokens) / float64(s.TokensPerSecond) * float64(time.Second))
	since := s.Time.Sub(a.told)
	if a.told.IsZero() || since < 0 { // the first, or another machine's clock
		since = own
	}
	a.wall, a.told = a.wall+since, s.Time
	a.useful += min(own, since)
	a.workers += since * time.Duration(s.WorldSize)
}

// fill writes the account into l.
func (a *account) fill(l *zerofleetv1.Losses, run store.Run) {
	if a.wall <= 0 {
		return
	}
	l.Goodput = float64(a.useful) / float64(a.wall)
	l.LostSeconds = (a.wall - a.useful).Seconds()
	l.WorkerHours = a.workers.Hours()
	if run.Price > 0 {
		l.Spent = l.WorkerHours * run.Price
	}
	if run.OnDemandPrice > 0 && run.Price > 0 {
		// On machines that stay, the same steps need the useful time alone.
		l.Saved = l.WorkerHours*l.Goodput*run.OnDemandPrice - l.Spent
	}
}
