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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Chaos says how a run's workers are disturbed, to see that it goes on.
type Chaos struct {
	Kind  ChaosKind
	For   time.Duration // how long, of Stop, Partition and Slow
	Rate  float64       // bytes a second that may leave, of Slow
	Rank  int           // whom; -1: anybody
	Every time.Duration // between one disturbance and the next, from when all train again; 0: once
	Times int           // how often; 0: until the run ends
	Seed  uint64        // of who is chosen
}

// ChaosKind is what is done to a worker. The first three are signals, and reach this machine only; the others go through
// the coordinator, to any worker.
type ChaosKind string

// What can be done.
const (
	Kill      ChaosKind = "kill"      // SIGKILL
	Stop      ChaosKind = "stop"      // SIGSTOP, and SIGCONT later
	Notice    ChaosKind = "notice"    // SIGTERM: the machine goes after workers.spot.grace_seconds
	Partition ChaosKind = "partition" // nothing passes its network
	Slow      ChaosKind = "slow"      // what it sends passes slowly
)

// signal is what a kind sends; 0: none.
func (k ChaosKind) signal() syscall.Signal {
	switch k {
	case Kill:
		return syscall.SIGKILL
	case Stop:
		return syscall.SIGSTOP
	case Notice:
		return syscall.SIGTERM
	}
	return 0
}

// chaosLook is how often a run is looked at while chaos waits for it.
const chaosLook = 100 * time.Millisecond

// Disturb disturbs a run's workers, and writes a line for each time. It ends with the run.
func Disturb(ctx context.Context, out io.Writer, dir string, c Chaos) error {
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
		if err := c.disturb(ctx, out, n, dir, victim); err != nil {
			return err
		}
		if c.Every == 0 || n == c.Times {
			return nil
		}
		if err := wait(ctx, c.Every); err != nil {
			return err
		}
	}
}

// disturb disturbs one worker, and waits for the end of that where it is to be done again or is this process's to end.
func (c Chaos) disturb(ctx context.Context, out io.Writer, n int, dir string, victim *zerofleetv1.WorkerStatus) error {
	done := c.send
	what := string(c.Kind)
	if s := c.Kind.signal(); s != 0 {
		done, what = c.kill, s.String()
	}
	if err := done(ctx, dir, victim); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d: worker %s (rank %d, process %d, step %d): %s\n", n, victim.GetId(), victim.GetRank(), victim.GetPid(), victim.GetStep(), what)
	switch {
	case c.Kind == Stop:
		err := wait(ctx, c.For)
		if e := syscall.Kill(int(victim.GetPid()), syscall.SIGCONT); err == nil && e != nil && !errors.Is(e, syscall.ESRCH) {
			err = e
		}
		return err
	case c.Every > 0:
		return wait(ctx, c.For)
	}
	return nil
}

// kill sends the signal to a process of this machine.
func (c Chaos) kill(_ context.Context, _ string, victim *zerofleetv1.WorkerStatus) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this host: %w", err)
	}
	if victim.GetHost() != host {
		return bad("worker %s is on %s, and chaos %s reaches this machine only", victim.GetId(), victim.GetHost(), c.Kind)
	}
	s := c.Kind.signal()
	if err := syscall.Kill(int(victim.GetPid()), s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to worker %s: %w", s, victim.GetId(), err)
	}
	return nil
}

// send has the coordinator pass it on. The worker ends it by itself.
func (c Chaos) send(ctx context.Context, dir string, victim *zerofleetv1.WorkerStatus) error {
	d := &zerofleetv1.Disturbance{Kind: zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_PARTITION, ForNanos: int64(c.For)}
	if c.Kind == Slow {
		d.Kind, d.Rate = zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_SLOW, c.Rate
	}
	err := operate(ctx, dir, func(ctx context.Context, o zerofleetv1.OperatorClient) error {
		_, err := o.Disturb(ctx, &zerofleetv1.DisturbRequest{Worker: victim.GetId(), Disturbance: d})
		return err
	})
	if status.Code(err) == codes.InvalidArgument {
		return bad("%s: %s", dir, status.Convert(err).Message())
	}
	return err
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
