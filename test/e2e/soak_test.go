package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// A run whose workers are killed at random, each time when the last loss has been got over, ends with the bits of the
// undisturbed one: nothing is read from a checkpoint, no step is lost or written twice, and every leaf was computed by the
// rank that the deal says.
//
// ZEROFLEET_SOAK is how long it is disturbed, by default three minutes where CI is true, and half a minute elsewhere; the seed is
// another one each time.
func TestSoak(t *testing.T) {
	t.Parallel()
	length := 30 * time.Second
	if os.Getenv("CI") == "true" {
		length = 3 * time.Minute
	}
	if s := os.Getenv("ZEROFLEET_SOAK"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := newPlace(t)
	p.patience = length + 10*time.Minute
	// Far more steps than it will do: it is stopped when it has been disturbed for long enough.
	args := []string{"--set", "train.steps=1000000", "--set", "checkpoint.every_steps=0", "--set", "workers.restart=true"}
	c := p.start(append([]string{"launch", "job.yaml", "--workers", "3"}, args...)...)
	p.awaitStep("runs/job", 3)
	chaos := p.start("chaos", "kill", "runs/job", "--every", "300ms", "--seed", fmt.Sprint(seed))
	end := time.Now().Add(length)
	p.await("the end of the disturbance", func() bool { return time.Now().After(end) || len(p.processes()) == 0 })
	chaos.kill()
	chaos.wait()
	c.interrupt()
	c.wait().wants(t, 130, "is kept; to go on from it")
	p.wantsNothingLeft()
	_, last := p.hash("runs/job")
	p.wantsSteps("runs/job", 1, last)
	died := len(p.events("runs/job", "worker_died"))
	if died < int(length/(10*time.Second)) {
		t.Errorf("%d kills in %s", died, length)
	}
	for _, e := range p.events("runs/job", "settled") {
		if e.Fields["restored_bytes"] != "0" {
			t.Errorf("read from a checkpoint: %+v", e)
		}
	}
	for _, e := range p.events("runs/job", "generation") {
		if e.Fields["generation"] != "1" && !strings.Contains(e.What, "in their memory") {
			t.Errorf("fell back: %+v", e)
		}
	}
	redone := p.wantsDeal("runs/job", 8)
	if redone > died {
		t.Errorf("%d steps were redone after %d deaths", redone, died)
	}
	q := newPlace(t)
	q.patience = p.patience
	q.run(append([]string{"launch", "job.yaml", "--workers", "1", "--stop-at", fmt.Sprint(last)}, args...)...).wants(t, 0)
	got, _ := p.hash("runs/job")
	if want, _ := q.hash("runs/job"); got != want {
		t.Errorf("after %d kills and %d steps: hash %.12s, want %.12s", died, last, got, want)
	}
	t.Logf("%d kills, %d steps, %d of them redone: hash %.12s, as undisturbed", died, last, redone, got)
}
