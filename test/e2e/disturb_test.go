package e2e_test

import (
	"strings"
	"testing"
)

// A guest's network is cut for longer than its peers need to find that out: they go on without it, and when the cut is over
// it comes back as a new incarnation, and has written nothing into what it missed.
func TestChaosPartition(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchWithGuests(3, 2, endless...)
	guest := p.join()
	p.awaitStep("runs/job", 3)
	p.run("chaos", "partition", "runs/job", "--rank", "2", "--for", "12s").wants(t, 0, "worker 2", "partition")
	p.await("the others to go on", func() bool { return len(p.members()) == 2 && len(p.events("runs/job", "settled")) == 2 })
	// Its machine takes connections, and nothing answers on them.
	p.wantsRemoved("2", "silent", "0 1")
	p.await("its return", func() bool { return len(p.members()) == 3 && len(p.events("runs/job", "settled")) == 3 })
	p.run("cancel", "runs/job").wants(t, 0)
	c.wait().wants(t, 130)
	guest.wait().wants(t, 0)
	p.wantsNothingLeft()
	if e := p.events("runs/job", "disturbed"); len(e) != 1 || e[0].Fields["worker"] != "2" || e[0].Fields["kind"] != "partition" || e[0].Fields["seconds"] != "12.000" {
		t.Errorf("disturbed: %+v", e)
	}
	var lives []string
	for _, e := range p.events("runs/job", "worker_joined") {
		if e.Fields["worker"] == "2" {
			lives = append(lives, e.Fields["incarnation"])
		}
	}
	if len(lives) != 2 || lives[0] != "1" || lives[1] != "2" {
		t.Errorf("incarnations of worker 2: %v, want 1 and 2", lives)
	}
	if redone := p.wantsDeal("runs/job", 8); redone > 1 {
		t.Errorf("%d steps were redone after one loss", redone)
	}
	p.wantsHashOfEndless()
}

// A worker whose bytes come late is waited for.
func TestChaosSlow(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--workers", "3")...)
	p.awaitStep("runs/job", 3)
	p.run("chaos", "slow", "runs/job", "--rank", "1", "--rate", "100000", "--for", "2s").wants(t, 0, "worker 1", "slow")
	c.wait().wants(t, 0, "worker 1 is disturbed for 2s: slow, 100000 bytes a second")
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
	if said := p.read("runs/job/logs/worker-1.log"); !strings.Contains(said, "network is slow") {
		t.Errorf("worker 1 knows of nothing: %s", said)
	}
	if removed := p.events("runs/job", "worker_removed"); len(removed) > 0 {
		t.Errorf("removed: %+v", removed)
	}
	if g := p.events("runs/job", "generation"); len(g) != 1 {
		t.Errorf("generations: %+v, want the first alone", g)
	}
}

func TestChaosNotice(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--workers", "3")...)
	p.awaitStep("runs/job", 3)
	p.run("chaos", "notice", "runs/job", "--rank", "1").wants(t, 0, "worker 1")
	c.wait().wants(t, 0, "worker 1 drains")
	p.wantsDrained("1", 0)
}

// What cannot be done is refused.
func TestChaosRefuses(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(append([]string{"launch", "job.yaml", "--workers", "1"}, endless...)...)
	p.awaitStep("runs/job", 1)
	p.run("chaos", "slow", "runs/job", "--rate", "0").wants(t, 2, "want a partition or slow, for more than 0 s, and slow at more than 0")
	p.run("chaos", "partition", "runs/job", "--for", "0s").wants(t, 2, "for more than 0 s")
	p.run("chaos", "notice", "runs/job", "--rank", "7").wants(t, 2, "--rank 7: the run has 1 workers")
	c.interrupt()
	c.wait().wants(t, 130)
	if e := p.events("runs/job", "disturbed"); len(e) > 0 {
		t.Errorf("disturbed: %+v", e)
	}
}
