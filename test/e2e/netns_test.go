package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// network is a network namespace that is joined to this one by a cable, a veth pair, which can be pulled: the guests that
// run in it are another machine's.
type network struct {
	p          *place
	namespace  string
	near       string // this end of the cable
	here, over string // addresses
}

var networks atomic.Int32

// newNetwork makes one. It needs root, and the name says to which process's tests it belongs.
func (p *place) newNetwork() *network {
	p.t.Helper()
	if os.Geteuid() != 0 {
		p.t.Skip("skipped: needs root to make a network namespace")
	}
	k := networks.Add(1)
	n := &network{p: p, namespace: fmt.Sprintf("zf%d-%d", os.Getpid(), k), near: fmt.Sprintf("zf%d-%d", os.Getpid()%100000, k),
		here: fmt.Sprintf("10.213.%d.1", k), over: fmt.Sprintf("10.213.%d.2", k)}
	far := n.near + "f"
	n.ip("netns", "add", n.namespace)
	p.t.Cleanup(func() { n.ip("netns", "delete", n.namespace) }) // the cable goes with it
	n.ip("link", "add", n.near, "type", "veth", "peer", "name", far, "netns", n.namespace)
	n.ip("addr", "add", n.here+"/24", "dev", n.near)
	n.ip("link", "set", n.near, "up")
	n.ip("-n", n.namespace, "addr", "add", n.over+"/24", "dev", far)
	n.ip("-n", n.namespace, "link", "set", far, "up")
	n.ip("-n", n.namespace, "link", "set", "lo", "up")
	return n
}

func (n *network) ip(args ...string) {
	n.p.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.p.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// cut pulls the cable, mend puts it back.
func (n *network) cut() { n.p.t.Helper(); n.ip("-n", n.namespace, "link", "set", n.near+"f", "down") }
func (n *network) mend() {
	n.p.t.Helper()
	n.ip("-n", n.namespace, "link", "set", n.near+"f", "up")
}

// join starts a guest on the other side.
func (n *network) join() *command {
	n.p.t.Helper()
	ip, err := exec.LookPath("ip")
	if err != nil {
		n.p.t.Fatal(err)
	}
	return n.p.startAs(ip, nil, "netns", "exec", n.namespace, filepath.Join(programs, "worker"), "join",
		"--token-file", n.p.path("runs/job/join.token"), "--advertise", n.over)
}

// launch starts a run that guests of the network can join.
func (n *network) launch(workers, local int, more ...string) *command {
	n.p.t.Helper()
	c := n.p.start(append([]string{"launch", "job.yaml", "--listen", n.here + ":0", "--workers", fmt.Sprint(workers), "--local-workers", fmt.Sprint(local)}, more...)...)
	n.p.await("the token file", func() bool { return len(n.p.events("runs/job", "joinable")) > 0 })
	return c
}

// One worker is on the other side when the cable is pulled: the others go on without it. When the cable is back it comes
// as a new incarnation, and has written nothing into what it missed.
func TestPartitionOfOneWorker(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	n := p.newNetwork()
	c := n.launch(3, 2, endless...)
	guest := n.join()
	p.awaitStep("runs/job", 3)
	n.cut()
	p.await("the others to go on", func() bool { return len(p.members()) == 2 && len(p.events("runs/job", "settled")) == 2 })
	p.wantsRemoved("2", "unreachable", "0 1")
	n.mend()
	p.await("its return", func() bool { return len(p.members()) == 3 && len(p.events("runs/job", "settled")) >= 3 })
	if redone := p.endsEndless(c, guest); redone > 1 {
		t.Errorf("%d steps were redone after one loss", redone)
	}
}

// The coordinator and one worker are on this side, two workers on the other. Nobody there can be heard: their leases run
// out, one worker goes on with what there is, and they come back as new.
func TestPartitionOfMostWorkers(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	n := p.newNetwork()
	c := n.launch(3, 1, endless...)
	guests := []*command{n.join(), n.join()}
	p.awaitStep("runs/job", 3)
	n.cut()
	p.await("the one to go on", func() bool { return len(p.members()) == 1 && len(p.events("runs/job", "settled")) == 2 })
	n.mend()
	p.await("their return", func() bool { return len(p.members()) == 3 })
	p.endsEndless(c, guests...)
}

// The coordinator is alone on this side, for longer than a lease and what is waited after it: training goes on, and when
// the cable is back nobody is removed.
func TestPartitionOfTheCoordinator(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	n := p.newNetwork()
	c := n.launch(2, 0, append(endless, "--set", "workers.orphan_seconds=600")...)
	guests := []*command{n.join(), n.join()}
	p.awaitStep("runs/job", 3)
	n.cut()
	p.await("the coordinator to miss them", func() bool { return len(p.events("runs/job", "unheard")) > 0 })
	n.mend()
	told := len(p.steps("runs/job"))
	p.awaitStep("runs/job", told+10)
	p.endsEndless(c, guests...)
	if g := p.events("runs/job", "generation"); len(g) != 1 {
		t.Errorf("generations: %+v, want the first alone", g)
	}
}
