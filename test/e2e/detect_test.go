package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// endless is a job that ends when it is told to.
var endless = []string{"--set", "train.steps=1000000", "--set", "checkpoint.every_steps=0"}

// launchWithGuests starts a run of some workers, of which as many as local are this machine's launcher's.
func (p *place) launchWithGuests(workers, local int, more ...string) *command {
	p.t.Helper()
	c := p.start(append([]string{"launch", "job.yaml", "--listen", "127.0.0.1:0", "--workers", fmt.Sprint(workers), "--local-workers", fmt.Sprint(local)}, more...)...)
	p.await("the token file", func() bool { return len(p.events("runs/job", "joinable")) > 0 })
	return c
}

// join starts a worker that nobody launched, as from another machine: its end is nobody's to see but its peers'.
func (p *place) join(more ...string) *command {
	p.t.Helper()
	return p.startAs("worker", nil, append([]string{"join", "--token-file", p.path("runs/job/join.token")}, more...)...)
}

func (p *place) signal(c *command, s syscall.Signal) {
	p.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wantsRemoved checks that one worker was removed, upon what its peers and the coordinator found.
func (p *place) wantsRemoved(worker, evidence, accusers string) {
	p.t.Helper()
	removed := p.events("runs/job", "worker_removed")
	if len(removed) != 1 {
		p.t.Fatalf("removed %+v, want worker %s", removed, worker)
	}
	f := removed[0].Fields
	if f["worker"] != worker || f["evidence"] != evidence || f["coordinator"] != evidence || accusers != "" && f["accusers"] != accusers || f["accusers"] == "" {
		p.t.Errorf("removed %+v, want worker %s, accused by %s: %s", removed[0], worker, accusers, evidence)
	}
	if len(p.events("runs/job", "suspected")) == 0 {
		p.t.Error("no event tells of the suspicion")
	}
	for _, e := range p.events("runs/job", "generation_over") {
		if strings.Contains(e.Why, "has not been heard of") {
			p.t.Errorf("its lease ran out: %+v", e)
		}
	}
}

// wantsHashOfEndless compares a run that was stopped at some step with an undisturbed one of as many.
func (p *place) wantsHashOfEndless() {
	p.t.Helper()
	got, last := p.hash("runs/job")
	p.wantsSteps("runs/job", 1, last)
	q := newPlace(p.t)
	q.run(append([]string{"launch", "job.yaml", "--workers", "1", "--stop-at", fmt.Sprint(last)}, endless...)...).wants(p.t, 0)
	if want, _ := q.hash("runs/job"); got != want {
		p.t.Errorf("hash %.12s of step %d, want %.12s", got, last, want)
	}
}

// endsEndless stops an endless run, with its guests, and compares it with an undisturbed one of as many steps. It returns how
// many steps were made again.
func (p *place) endsEndless(c *command, guests ...*command) (redone int) {
	p.t.Helper()
	p.run("cancel", "runs/job").wants(p.t, 0)
	c.wait().wants(p.t, 130)
	for _, g := range guests {
		g.wait().wants(p.t, 0)
	}
	p.wantsNothingLeft()
	redone = p.wantsDeal("runs/job", 8)
	p.wantsHashOfEndless()
	return redone
}

// members are of the newest generation.
func (p *place) members() []string {
	p.t.Helper()
	g := p.events("runs/job", "generation")
	return strings.Fields(g[len(g)-1].Fields["workers"])
}

func TestAKilledGuestIsFoundByItsPeers(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchWithGuests(3, 2, longSet...)
	guest := p.join()
	p.awaitStep("runs/job", 3)
	p.signal(guest, syscall.SIGKILL)
	c.wait().wants(t, 0)
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsRemoved("2", "refused", "")
	if redone := p.wantsDeal("runs/job", 2); redone > 1 {
		t.Errorf("%d steps were redone after one loss", redone)
	}
	if g := p.events("runs/job", "generation"); len(g) != 2 || !strings.Contains(g[1].What, "2 workers, starting from the state of step") {
		t.Errorf("generations: %+v", g)
	}
	guest.wait()
	p.wantsNothingLeft()
}

// A worker that stands still is removed by two peers and the coordinator, long before its lease ends, and comes back as a new
// incarnation when it goes on.
func TestAStoppedGuestIsRemovedAndComesBack(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchWithGuests(3, 2, endless...)
	guest := p.join()
	p.awaitStep("runs/job", 3)
	p.signal(guest, syscall.SIGSTOP)
	p.await("the others to go on", func() bool { return len(p.members()) == 2 && len(p.events("runs/job", "settled")) == 2 })
	p.wantsRemoved("2", "silent", "0 1")
	p.signal(guest, syscall.SIGCONT)
	p.await("its return", func() bool { return len(p.members()) == 3 && len(p.events("runs/job", "settled")) == 3 })
	p.run("cancel", "runs/job").wants(t, 0)
	c.wait().wants(t, 130)
	guest.wait().wants(t, 0)
	p.wantsNothingLeft()
	p.wantsHashOfEndless()
}

// Of two workers that stop in a world of three one is left to accuse them. That is not enough: only their leases end them.
// They are fenced all the same, and come back with nothing.
func TestStoppedPastTheirLease(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(append([]string{"launch", "job.yaml", "--workers", "3"}, endless...)...)
	p.awaitStep("runs/job", 3)
	stopped := []int{p.pidOf("runs/job", 1), p.pidOf("runs/job", 2)}
	for _, pid := range stopped {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	p.await("the other to go on", func() bool { return len(p.members()) == 1 })
	if removed := p.events("runs/job", "worker_removed"); len(removed) > 0 {
		t.Errorf("one accuser was enough: %+v", removed)
	}
	if len(p.events("runs/job", "suspected")) == 0 {
		t.Error("nobody was accused")
	}
	for _, pid := range stopped {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	had := len(p.steps("runs/job")) // a rank and its buddy were gone: these steps are done again
	p.await("their return", func() bool { return len(p.events("runs/job", "worker_joined")) == 5 && len(p.members()) == 3 })
	p.awaitStep("runs/job", had+1)
	p.run("cancel", "runs/job").wants(t, 0)
	c.wait().wants(t, 130, "has not been heard of for")
	p.wantsNothingLeft()
	p.wantsDeal("runs/job", 8)
	p.wantsHashOfEndless()
}

// Workers of which there are four to a core answer late, and lose nothing.
func TestLoadRemovesNobody(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run(launchLong("--workers", "8")...).wants(t, 0)
	p.wantsHash("runs/job", long)
	if removed := p.events("runs/job", "worker_removed"); len(removed) > 0 {
		t.Errorf("removed: %+v", removed)
	}
	if g := p.events("runs/job", "generation"); len(g) != 1 {
		t.Errorf("generations: %+v", g)
	}
}

func TestWhoMayJoin(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchWithGuests(2, 1, endless...)
	token := p.path("runs/job/join.token")
	info, err := os.Stat(token)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token file has mode %v (%v), want 0600", info.Mode(), err)
	}
	line := p.events("runs/job", "joinable")[0].Fields["join"]
	if !strings.HasPrefix(line, "worker join --coordinator 127.0.0.1:") {
		t.Errorf("the line to run is %q", line)
	}
	// The line that is printed works as it is.
	guest := p.startAs("worker", nil, append(strings.Fields(line)[1:], "--id", "guest")...)
	p.await("the guest to train", func() bool {
		return len(p.events("runs/job", "settled")) > 0 && strings.Join(p.members(), " ") == "0 guest"
	})
	p.join("--id", "guest").wait().wants(t, 1, "worker id is taken: guest is process")
	p.join("--id", "not/an/id").wait().wants(t, 1, `worker id "not/an/id"`)
	p.join("--coordinator", "nowhere").wait().wants(t, 2, `"nowhere": want HOST:PORT`)
	p.startAs("worker", nil, "join").wait().wants(t, 2, "needs --token-file")

	wrong := func(name string, change func(fields map[string]any)) string {
		var fields map[string]any
		if err := json.Unmarshal([]byte(p.read("runs/job/join.token")), &fields); err != nil {
			t.Fatal(err)
		}
		change(fields)
		b, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		p.write(name, string(b))
		return p.path(name)
	}
	p.startAs("worker", nil, "join", "--token-file", wrong("wrong", func(f map[string]any) { f["token"] = "0123" })).wait().
		wants(t, 1, "wrong token for this job")
	other := newPlace(t)
	o := other.launchWithGuests(1, 1, endless...)
	var address string
	address, _, _ = strings.Cut(strings.TrimPrefix(line, "worker join --coordinator "), " ")
	p.startAs("worker", nil, "join", "--coordinator", address, "--token-file", other.path("runs/job/join.token")).wait().
		wants(t, 1, "not the coordinator that the token file is of")
	o.interrupt()
	o.wait()

	// One that is not needed waits, and ends with the run; one that would read something else does not get in.
	spare := p.join()
	p.await("the spare one", func() bool { return len(p.events("runs/job", "worker_joined")) == 3 })
	p.write("text.txt", p.read("text.txt")+"one more line\n")
	p.join().wait().wants(t, 1, "text.txt changed: it was sha256:")
	p.run("cancel", "runs/job").wants(t, 0)
	c.wait().wants(t, 130)
	guest.wait().wants(t, 0)
	spare.wait().wants(t, 0, "the run has ended")
	p.wantsNothingLeft()
}
