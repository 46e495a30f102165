package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/gossip"
	"github.com/zerofleet/zerofleet/membership/probe"
)

const (
	// pingTimeout bounds each of two probes of a suspect, times 1 more for each point that this process's own health is
	// worse than it should be.
	pingTimeout = 500 * time.Millisecond
	// checkAgain is between two checks that came to nothing, and aliveAgain between those of a worker that answered.
	checkAgain = 300 * time.Millisecond
	aliveAgain = 2 * time.Second
	// brokenLife is how long a broken connection is reason to look after the peer: a process that dies may answer once more.
	brokenLife = 5 * time.Second
)

// watch looks after the other members of this worker's generation, when something makes it suspect one: gossip that has
// lost it, or a connection of the collective that broke. What it finds it tells the coordinator, which decides; see
// membership/gossip and coordinator/suspects.go.
type watch struct {
	self   membership.Member
	dials  *tls.Config
	log    *slog.Logger
	health func() int
	accuse func(ctx context.Context, generation uint64, m membership.Member, found probe.Result, since time.Time) (removed bool, why string, err error)
	stop   context.CancelFunc
	done   chan struct{} // run has ended, and every check
	wake   chan struct{} // holds one token when there may be something to check

	mu         sync.Mutex
	generation membership.Generation
	lost       map[string]bool      // by name in gossip: who it does not hear
	broken     map[string]time.Time // by name: until when a broken connection counts
	checked    map[string]bool      // by name: a check is under way
}

// gossipName is one incarnation's name among the failure detectors.
func gossipName(id string, incarnation uint64) string { return fmt.Sprintf("%s#%d", id, incarnation) }

func nameOf(m membership.Member) string { return gossipName(m.ID, m.Incarnation) }

// startWatch takes part in the gossip, from the address that the session was registered with.
func startWatch(s *membership.Session, ear *gossip.Listener, dials *tls.Config, log *slog.Logger) (*watch, *gossip.Node, error) {
	w := newWatch(membership.Member{ID: s.ID(), Incarnation: s.Incarnation()}, dials, log)
	w.accuse = s.Suspect
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go w.run(ctx)
	node, err := ear.Start(gossip.Options{Name: nameOf(w.self), Key: s.Gossip().Key, Seeds: s.Gossip().Seeds, Changed: w.heard})
	if err != nil {
		w.close()
		return nil, nil, err
	}
	w.mu.Lock()
	w.health = node.Health
	w.mu.Unlock()
	return w, node, nil
}

func newWatch(self membership.Member, dials *tls.Config, log *slog.Logger) *watch {
	return &watch{self: self, dials: dials, log: log, health: func() int { return 0 }, done: make(chan struct{}), wake: make(chan struct{}, 1),
		lost: map[string]bool{}, broken: map[string]time.Time{}, checked: map[string]bool{}}
}

// run owns the checks, until ctx ends.
func (w *watch) run(ctx context.Context) {
	defer close(w.done)
	var checks sync.WaitGroup
	defer checks.Wait()
	for {
		for _, m := range w.take() {
			checks.Go(func() { w.check(ctx, m) })
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
	}
}

// close ends every check and waits for that.
func (w *watch) close() {
	w.stop()
	<-w.done
}

// heard is what gossip says. It never waits.
func (w *watch) heard(name string, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost[name] = lost
	w.look()
}

// enter says whom to look after: the members of g.
func (w *watch) enter(g membership.Generation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation = g
	w.look()
}

// failed takes the error of a collective: whom it names is suspected.
func (w *watch) failed(err error) {
	var peer *collective.PeerError
	if !errors.As(err, &peer) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.generation.Members {
		if m.ID == peer.ID {
			w.broken[nameOf(m)] = time.Now().Add(brokenLife)
		}
	}
	w.look()
}

// look has run look what is due.
func (w *watch) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take is whom to check, of whom no check is under way. Who is no member has nobody to check.
func (w *watch) take() (due []membership.Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, member := w.generation.Rank(w.self.ID, w.self.Incarnation); !member {
		return nil
	}
	for _, m := range w.generation.Members {
		if name := nameOf(m); name != nameOf(w.self) && !w.checked[name] && w.suspected(name) {
			w.checked[name] = true
			due = append(due, m)
		}
	}
	return due
}

func (w *watch) suspected(name string) bool {
	return w.lost[name] || time.Now().Before(w.broken[name])
}

// due says whether a suspect is still to be looked after, and in which generation; if not, its check is over.
func (w *watch) due(m membership.Member) (generation uint64, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, member := w.generation.Rank(m.ID, m.Incarnation)
	if due = member && w.suspected(nameOf(m)); !due {
		delete(w.checked, nameOf(m))
	}
	return w.generation.Number, due
}

// check probes a suspect, and accuses it with what was found, for as long as it is suspected and a member.
func (w *watch) check(ctx context.Context, m membership.Member) {
	for {
		generation, due := w.due(m)
		if !due {
			return
		}
		found, since := w.probe(ctx, m)
		pause := checkAgain
		switch found.Finding {
		case probe.Answered:
			if w.isLost(m) {
				pause = aliveAgain
			}
		case probe.Unclear:
			w.log.Debug("a probe tells nothing", "suspect", m.ID, "why", found.Detail)
		default:
			removed, why, err := w.accuse(ctx, generation, m, found, since)
			if ctx.Err() == nil {
				w.log.Info("suspect", "worker", m.ID, "evidence", found.Finding, "detail", found.Detail, "removed", removed, "why", why, "error", err)
			}
			if errors.Is(err, membership.ErrFenced) {
				return // this worker itself is out
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (w *watch) isLost(m membership.Member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[nameOf(m)]
}

// probe asks a suspect, and once more if it does not answer. since is when it was first asked.
func (w *watch) probe(ctx context.Context, m membership.Member) (found probe.Result, since time.Time) {
	w.mu.Lock()
	health := w.health
	w.mu.Unlock()
	since = time.Now()
	at := probe.Target{Addr: m.Addr, ID: m.ID, Incarnation: m.Incarnation}
	for range 2 {
		found = probe.Ping(ctx, at, w.dials, pingTimeout*time.Duration(1+health()))
		if found.Finding != probe.Silent && found.Finding != probe.Unreachable {
			break
		}
	}
	return found, since
}
