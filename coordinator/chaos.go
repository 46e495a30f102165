package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Chaos says how a run's workers are disturbed, to see that it goes on.
type Chaos struct {
	Stop  bool          // SIGSTOP, and SIGCONT after For; otherwise SIGKILL
	For   time.Duration // how long a stopped worker stands still
	Rank  int           // whom; -1: anybody
	Every time.Duration // between one disturbance and the next, from when all train again; 0: once
	Times int           // how often; 0: until the run ends
	Seed  uint64        // of who is chosen
}

// chaosLook is how often a run is looked at while chaos waits for it.
const chaosLook = 100 * time.Millisecond

// Disturb disturbs the workers of a run on this machine, and writes a line for each time. It ends with the run.
func Disturb(ctx context.Context, out io.Writer, dir string, c Chaos) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this host: %w", err)
	}
	random := rand.New(rand.NewPCG(c.Seed, 0))
	for n := 1; ; n++ {
		s, err := whole(ctx, dir, c.Rank)
		if errors.Is(err, errEnded) {
			return nil
		}
		if err != nil {
			return err
		}
		members := ranks(s)
		victim := members[random.IntN(len(members))]
		if c.Rank >= 0 {
			victim = members[c.Rank]
		}
		if victim.GetHost() != host {
			return bad("worker %s is on %s, and chaos reaches this machine only", victim.GetId(), victim.GetHost())
		}
		signal := syscall.SIGKILL
		if c.Stop {
			signal = syscall.SIGSTOP
		}
		pid := int(victim.GetPid())
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("send %s to worker %s: %w", signal, victim.GetId(), err)
		}
		fmt.Fprintf(out, "%d: worker %s (rank %d, process %d, step %d): %s\n", n, victim.GetId(), victim.GetRank(), pid, victim.GetStep(), signal)
		if c.Stop {
			err := wait(ctx, c.For)
			if e := syscall.Kill(pid, syscall.SIGCONT); err == nil && e != nil && !errors.Is(e, syscall.ESRCH) {
				err = e
			}
			if err != nil {
				return err
			}
		}
		if c.Every == 0 || n == c.Times {
			return nil
		}
		if err := wait(ctx, c.Every); err != nil {
			return err
		}
	}
}

// whole waits until every worker that the run may have trains, and the state is settled, so that each disturbance is met by
// a run that has got over the last one.
func whole(ctx context.Context, dir string, rank int) (*Status, error) {
	for {
		s, err := ReadStatus(ctx, dir)
		switch {
		case err == nil && s.GetCoordinatorPid() == 0:
			return nil, errEnded
		case err == nil && s.GetState() == "training":
			members := ranks(s)
			all := len(members) > 0
			for _, w := range members {
				all = all && w.GetPhase() == membership.Training
			}
			for _, w := range s.GetWorkers() {
				all = all && (w.GetRank() >= 0 || w.GetPhase() == membership.Failed) // otherwise one is on its way
			}
			if rank >= len(members) {
				return nil, bad("--rank %d: the run has %d workers", rank, len(members))
			}
			if all {
				return s, nil
			}
		case IsBadInput(err):
			return nil, err
		}
		if err := wait(ctx, chaosLook); err != nil {
			return nil, err
		}
	}
}

// ranks are the members of the newest generation, by rank.
func ranks(s *Status) []*zerofleetv1.WorkerStatus {
	members := make([]*zerofleetv1.WorkerStatus, 0, len(s.GetWorkers()))
	for r := range s.GetWorkers() {
		for _, w := range s.GetWorkers() {
			if int(w.GetRank()) == r {
				members = append(members, w)
			}
		}
	}
	return members
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
