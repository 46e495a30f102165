package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Where a coordinator is killed, with its etcd, in a run that loses worker 1: before or after it writes each thing that a
// change of generation is made of.
var controlPoints = []string{
	"write process of worker 1", "write generation 1", "write that generation 1 is settled", "write generation 2", "write that generation 2 is settled",
}

// Another coordinator takes the run up, and it ends as if nothing had been: the same processes, each step once.
func TestCoordinatorKilledWhileItDecides(t *testing.T) {
	for i, point := range controlPoints {
		for j, when := range []string{"before", "after"} {
			if os.Getenv("ZEROFLEET_TABLE") != "full" && (i+j)%2 > 0 { // half of them each way, and every point
				continue
			}
			t.Run(when+" "+point, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t)
				args := launchLong(append([]string{"--workers", "3", "--worker", filepath.Join(programs, "worker-faults") + " --fault in-backward@5:1=kill"}, noCheckpoints...)...)
				if e := p.startAs("coordinator-faults", []string{"ZEROFLEET_FAULT=" + when + " " + point}, args...).wait(); e.signal != syscall.SIGKILL {
					t.Fatalf("the coordinator was not killed %s it could %s: %v", when, point, e)
				}
				p.run(args...).wants(t, 0, "going on with the run")
				p.wantsWhole(1)
				workers := map[string]bool{}
				for _, e := range p.events("runs/job", "worker_joined") {
					if workers[e.Fields["worker"]+e.Fields["addr"]] = true; e.Fields["incarnation"] != "1" {
						t.Errorf("another life: %+v", e)
					}
				}
				if len(workers) != 3 {
					t.Errorf("%d processes joined, want 3", len(workers))
				}
			})
		}
	}
}

// Coordinators that are killed one after the other, at any time, in a run that loses workers.
func TestCoordinatorsKilledOneAfterTheOther(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	args := launchLong(append([]string{"--workers", "4", "--worker", filepath.Join(programs, "worker-faults") + " --fault in-exchange@30:2=kill --fault in-update@60:1=kill"}, noCheckpoints...)...)
	for n := 10; n <= 70; n += 20 {
		c := p.start(args...)
		p.awaitStep("runs/job", n)
		c.kill()
	}
	p.run(args...).wants(t, 0, fmt.Sprintf("step %d/%d", long, long))
	p.wantsWhole(2)
}
