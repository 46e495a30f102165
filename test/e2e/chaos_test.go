package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// chaos disturbs a run of a place, at any time: also while it gets over the last disturbance.
type chaos struct {
	p      *place
	random *rand.Rand
	args   []string // of the launch
	run    *command // the newest coordinator
	began  time.Time
	quiet  time.Time // every disturbance has ended by then
	conts  []cont
	did    map[string]int
}

// cont is a stopped process, which is to go on.
type cont struct {
	pid int
	at  time.Time
}

// A run under everything that can be done to it, in any order and at any time, ends with the bits of the undisturbed one; each
// step is committed once, each of its leaves was computed by the rank that the deal says, and nothing is left behind.
//
// ZEROFLEET_CHAOS is how long it is disturbed, 20 s by default; the seed, of what is done when, is another one each time
// unless ZEROFLEET_CHAOS_SEED says it.
func TestChaos(t *testing.T) {
	t.Parallel()
	length, seed := 20*time.Second, rand.Uint64()
	if s := os.Getenv("ZEROFLEET_CHAOS"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("ZEROFLEET_CHAOS_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	p := newPlace(t)
	p.patience = length + 10*time.Minute
	set := []string{"--set", "train.steps=1000000", "--set", "checkpoint.every_steps=20", "--set", "workers.restart=true"}
	c := &chaos{p: p, random: rand.New(rand.NewPCG(seed, 0)), did: map[string]int{},
		args: append([]string{"launch", "job.yaml", "--workers", fmt.Sprint(3 + seed%2)}, set...)}
	c.run = p.start(c.args...)
	p.awaitStep("runs/job", 3)
	c.began = time.Now()
	for end := c.began.Add(length); time.Now().Before(end); {
		c.pass(time.Duration(200+c.random.IntN(2000)) * time.Millisecond)
		c.disturb()
	}
	c.pass(time.Until(c.quiet))
	p.awaitStep("runs/job", len(lines(p.path("runs/job", "metrics.jsonl")))+3) // it goes on
	c.run.interrupt()
	c.run.wait().wants(t, 130, "is kept; to go on from it")
	p.wantsNothingLeft()
	got, last := p.hash("runs/job")
	p.wantsSteps("runs/job", 1, last)
	p.wantsOnce()
	redone := p.wantsDeal("runs/job", 8)
	q := newPlace(t)
	q.patience = p.patience
	q.run(append([]string{"launch", "job.yaml", "--workers", "1", "--stop-at", fmt.Sprint(last)}, set...)...).wants(t, 0)
	if want, _ := q.hash("runs/job"); got != want {
		t.Errorf("seed %d, %v, %d steps: hash %.12s, want %.12s", seed, c.did, last, got, want)
	}
	t.Logf("seed %d: %v, %d generations, %d steps, %d of them redone: hash %.12s, as undisturbed",
		seed, c.did, len(p.events("runs/job", "generation")), last, redone, got)
}

// pass lets time pass, and what was stopped go on in it.
func (c *chaos) pass(d time.Duration) {
	c.p.t.Helper()
	end := time.Now().Add(d)
	c.p.await("the next disturbance", func() bool {
		now := time.Now()
		var still []cont
		for _, s := range c.conts {
			if now.Before(s.at) {
				still = append(still, s)
				continue
			}
			c.signal(s.pid, syscall.SIGCONT)
		}
		c.conts = still
		return now.After(end)
	})
}

// lasting is a disturbance's length, which is noted.
func (c *chaos) lasting(least, most time.Duration) time.Duration {
	d := least + time.Duration(c.random.Int64N(int64(most-least)+1))
	if end := time.Now().Add(d); end.After(c.quiet) {
		c.quiet = end
	}
	return d
}

// disturb does one thing to one member of the newest generation, or to the coordinator. What cannot be done at this moment
// is not.
func (c *chaos) disturb() {
	c.p.t.Helper()
	select {
	case <-c.run.done:
		c.p.t.Fatalf("the run has ended: %v", c.run.wait())
	default:
	}
	kind, pick := c.random.IntN(6), c.random.IntN(1<<20)
	if kind == 5 {
		c.run.kill()
		switch _, err := os.Stat(c.p.path("backup")); {
		case pick%3 == 0:
			c.p.copyEtcd()
			c.note("etcd is copied")
		case pick%3 == 1 && err == nil:
			c.p.olderEtcd()
			c.note("an older copy of etcd takes its place")
		}
		c.run = c.p.start(c.args...)
		c.note("the coordinator is killed and launched again")
		return
	}
	var members []*zerofleetv1.WorkerStatus
	var w *zerofleetv1.WorkerStatus
	err := c.ask(func(ctx context.Context, o zerofleetv1.OperatorClient) error {
		s, err := o.Status(ctx, &zerofleetv1.StatusRequest{})
		for _, w := range s.GetWorkers() {
			if w.GetRank() >= 0 && w.GetPhase() != membership.Failed {
				members = append(members, w)
			}
		}
		if len(members) == 0 || err != nil {
			return err
		}
		w = members[pick%len(members)]
		switch kind {
		case 3:
			_, err = o.Disturb(ctx, &zerofleetv1.DisturbRequest{Worker: w.GetId(), Disturbance: &zerofleetv1.Disturbance{
				Kind: zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_PARTITION, ForNanos: int64(c.lasting(3*time.Second, 3*time.Second))}})
		case 4:
			_, err = o.Disturb(ctx, &zerofleetv1.DisturbRequest{Worker: w.GetId(), Disturbance: &zerofleetv1.Disturbance{
				Kind: zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_SLOW, ForNanos: int64(c.lasting(2*time.Second, 2*time.Second)), Rate: 100000}})
		}
		return err
	})
	if err != nil || w == nil {
		c.p.t.Logf("%6.2fs nothing: %v", time.Since(c.began).Seconds(), err)
		return
	}
	pid := int(w.GetPid())
	switch kind {
	case 0:
		c.signal(pid, syscall.SIGKILL)
		c.note("kill", w.GetId())
	case 1:
		c.signal(pid, syscall.SIGSTOP)
		c.conts = append(c.conts, cont{pid, time.Now().Add(c.lasting(time.Second, 3*time.Second))})
		c.note("stop", w.GetId())
	case 2:
		if len(members) < 3 || c.did["notice"] > 0 { // who has left does not come back
			return
		}
		c.signal(pid, syscall.SIGTERM)
		c.note("notice", w.GetId())
	case 3:
		c.note("partition", w.GetId())
	case 4:
		c.note("slow", w.GetId())
	}
}

func (c *chaos) note(what string, who ...string) {
	c.did[what]++
	c.p.t.Logf("%6.2fs %s %v", time.Since(c.began).Seconds(), what, who)
}

// signal sends a signal to a process of this place, and to no other that has its number now.
func (c *chaos) signal(pid int, s syscall.Signal) {
	c.p.t.Helper()
	for _, mine := range c.p.processes() {
		if mine == pid {
			if err := syscall.Kill(pid, s); err != nil && err != syscall.ESRCH {
				c.p.t.Fatal(err)
			}
		}
	}
}

// ask calls the coordinator, if there is one at the moment.
func (c *chaos) ask(do func(context.Context, zerofleetv1.OperatorClient) error) error {
	c.p.t.Helper()
	at, err := membership.ControlFile(c.p.path("runs/job", "control.json"))()
	if err != nil {
		return err
	}
	conn, err := at.Connect(nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(c.p.t.Context(), 5*time.Second)
	defer cancel()
	return do(ctx, zerofleetv1.NewOperatorClient(conn))
}
