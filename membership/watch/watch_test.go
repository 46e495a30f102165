package watch

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/gossip"
	"github.com/zerofleet/zerofleet/membership/membershiptest"
	"github.com/zerofleet/zerofleet/membership/probe"
)

// patience bounds every wait.
const patience = 60 * time.Second

// process is a worker's process as others see it: its port, its failure detector, and whom it has accused.
type process struct {
	m     membership.Member
	watch *Watch
	hang  func() error // closes the failure detector alone
	die   func()       // closes everything
	pings atomic.Int64 // answered

	mu      sync.Mutex
	accused []string // "ID finding"
}

func (p *process) accuse(_ context.Context, _ uint64, m membership.Member, found probe.Result, _ time.Time) (bool, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accused = append(p.accused, m.ID+" "+found.Finding.String())
	return true, "", nil
}

func (p *process) accusations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.accused...)
}

func start(t *testing.T, id string, server, client *tls.Config, seeds ...string) *process {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{}
	answers := &probe.Server{}
	answers.Is(id, 1)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(server)), grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			p.pings.Add(1)
			return next(ctx, req)
		}))
	answers.Register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	ear, err := gossip.Listen("127.0.0.1", nil, log)
	if err != nil {
		t.Fatal(err)
	}
	p.m = membership.Member{ID: id, Incarnation: 1, Addr: l.Addr().String(), Gossip: ear.Addr()}
	p.watch, err = Start(Options{ID: id, Incarnation: 1, TLS: client, Accuse: p.accuse, Log: log,
		Gossip: membership.Gossip{Key: make([]byte, gossip.KeyBytes), Seeds: seeds}}, ear)
	if err != nil {
		t.Fatal(err)
	}
	p.hang = sync.OnceValue(p.watch.Close)
	p.die = sync.OnceFunc(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := p.hang(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.die)
	return p
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	membershiptest.Await(t, patience, what, ok)
}

// three are members of one generation that have heard of each other.
func three(t *testing.T) (a, b, c *process) {
	t.Helper()
	// Memberlist does not wait for a probe that is under way: it ends by itself, later the later this machine runs.
	t.Cleanup(func() {
		goleak.VerifyNone(t, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
	})
	server, client := membershiptest.Pair(t)
	a = start(t, "a", server, client)
	b = start(t, "b", server, client, a.m.Gossip)
	c = start(t, "c", server, client, a.m.Gossip)
	all := []*process{a, b, c}
	g := membership.Generation{Number: 1}
	for rank, p := range all {
		p.m.Rank = rank
		g.Members = append(g.Members, p.m)
	}
	for _, p := range all {
		p.watch.Enter(g)
	}
	await(t, "all to know all", func() bool {
		for _, p := range all {
			p.watch.mu.Lock()
			known := len(p.watch.lost)
			p.watch.mu.Unlock()
			if known < 2 {
				return false
			}
		}
		return true
	})
	return a, b, c
}

func TestTheDeadIsAccusedByBothOthers(t *testing.T) {
	a, b, c := three(t)
	c.die()
	for _, p := range []*process{a, b} {
		await(t, p.m.ID+" to accuse", func() bool { return len(p.accusations()) > 0 })
		if got := p.accusations(); len(got) != 1 || got[0] != "c refused" {
			t.Errorf("%s accuses %v, want c once, since it is removed then", p.m.ID, got)
		}
	}
}

// A worker whose failure detector is not heard, and whose process answers, loses nothing.
func TestWhoAnswersIsNotAccused(t *testing.T) {
	a, b, c := three(t)
	if err := c.hang(); err != nil {
		t.Fatal(err)
	}
	await(t, "both to have asked it, again and again", func() bool { return c.pings.Load() >= 4 })
	for _, p := range []*process{a, b} {
		if got := p.accusations(); len(got) > 0 {
			t.Errorf("%s accuses %v", p.m.ID, got)
		}
	}
	// It dies after all.
	c.die()
	await(t, "a to accuse", func() bool { return len(a.accusations()) > 0 })
}

func TestABrokenConnectionIsLookedAfter(t *testing.T) {
	a, b, c := three(t)
	a.watch.Broken("b")
	await(t, "a to ask b", func() bool { return b.pings.Load() >= 2 })
	c.die()
	a.watch.Broken("c")
	await(t, "a to accuse", func() bool { return len(a.accusations()) > 0 })
	if got := a.accusations(); got[0] != "c refused" {
		t.Errorf("a accuses %v, want c", got)
	}
}

// Only members accuse, and only members of the same generation.
func TestWhoIsNoMemberIsLeftAlone(t *testing.T) {
	a, b, c := three(t)
	b.watch.Enter(membership.Generation{Number: 2, Members: []membership.Member{a.m, c.m}}) // without b itself
	a.watch.Enter(membership.Generation{Number: 2, Members: []membership.Member{a.m, b.m}}) // without c
	c.die()
	await(t, "both to miss it", func() bool { return !a.watch.hears(c.m) && !b.watch.hears(c.m) })
	if due := append(a.watch.take(), b.watch.take()...); len(due) > 0 {
		t.Errorf("%v are checked", due)
	}
}

func (w *Watch) hears(m membership.Member) bool { return !w.isLost(m) }
