// Package watch looks after the other members of a worker's generation: it joins what the gossip suspects, and what the
// collective has lost, with probes, and tells the coordinator what it found. See ARCHITECTURE.md for who may lose his place.
package watch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/gossip"
	"github.com/zerofleet/zerofleet/membership/probe"
)

const (
	// pingTimeout bounds each of two probes of a suspect, times 1 more for each point that this process's own health is
	// worse than it should be.
	pingTimeout = 500 * time.Millisecond
	// checkAgain is between two checks that came to nothing, and aliveAgain between those of a worker that answered.
	checkAgain = 200 * time.Millisecond
	aliveAgain = 2 * time.Second
	// brokenLife is how long a broken connection is reason to look after the peer: a process that dies may answer once more.
	brokenLife = 5 * time.Second
)

// Accuse tells the coordinator what was found of a member, and since when it was asked; membership.Session.Suspect is one.
type Accuse func(ctx context.Context, generation uint64, m membership.Member, found probe.Result, since time.Time) (removed bool, why string, err error)

// Options say who watches. All but Dial must be set.
type Options struct {
	ID          string
	Incarnation uint64
	Gossip      membership.Gossip
	TLS         *tls.Config  // dials a worker of the job
	Dial        probe.Dialer // of probes; nil: the plain network
	Accuse      Accuse
	Log         *slog.Logger
}

// Watch is one incarnation's, until Close. It suspects whom gossip has lost, and at whom a connection of the collective
// broke; whom it suspects it probes; and only whom a probe finds gone or hanging it accuses.
type Watch struct {
	o    Options
	node *gossip.Node
	stop context.CancelFunc
	done chan struct{} // run has ended, and every check
	wake chan struct{} // holds one token when there may be something to check

	mu         sync.Mutex
	generation membership.Generation
	lost       map[string]bool      // by name in gossip: who it does not hear
	broken     map[string]time.Time // by name: until when a broken connection counts
	checked    map[string]bool      // by name: a check is under way, or has led to its end
}

// name is one incarnation's among the failure detectors.
func name(id string, incarnation uint64) string { return fmt.Sprintf("%s#%d", id, incarnation) }

func nameOf(m membership.Member) string { return name(m.ID, m.Incarnation) }

// Start takes part in the gossip, at the address that the worker was registered with. It owns ear, also when it fails.
func Start(o Options, ear *gossip.Listener) (*Watch, error) {
	w := &Watch{o: o, done: make(chan struct{}), wake: make(chan struct{}, 1),
		lost: map[string]bool{}, broken: map[string]time.Time{}, checked: map[string]bool{}}
	var err error
	w.node, err = ear.Start(gossip.Options{Name: name(o.ID, o.Incarnation), Key: o.Gossip.Key, Seeds: o.Gossip.Seeds, Changed: w.heard})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go w.run(ctx)
	return w, nil
}

// run owns the checks, until ctx ends.
func (w *Watch) run(ctx context.Context) {
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

// Close ends every check, and leaves the gossip without a word.
func (w *Watch) Close() error {
	w.stop()
	<-w.done
	return w.node.Close()
}

// heard is what gossip says. It never waits.
func (w *Watch) heard(who string, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost[who] = lost
	w.look()
}

// Enter says whom to look after: the members of g.
func (w *Watch) Enter(g membership.Generation) {
	var addrs []string
	for _, m := range g.Members {
		if m.Gossip != "" && m.ID != w.o.ID {
			addrs = append(addrs, m.Gossip)
		}
	}
	w.node.Join(addrs)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation = g
	w.look()
}

// Broken says that the connection to a member broke.
func (w *Watch) Broken(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.generation.Members {
		if m.ID == id {
			w.broken[nameOf(m)] = time.Now().Add(brokenLife)
		}
	}
	w.look()
}

// look has run look what is due.
func (w *Watch) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take is whom to check, of whom no check is under way. Who is no member has nobody to check.
func (w *Watch) take() (due []membership.Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, member := w.generation.Rank(w.o.ID, w.o.Incarnation); !member {
		return nil
	}
	for _, m := range w.generation.Members {
		if n := nameOf(m); m.ID != w.o.ID && !w.checked[n] && w.suspected(n) {
			w.checked[n] = true
			due = append(due, m)
		}
	}
	return due
}

func (w *Watch) suspected(who string) bool {
	return w.lost[who] || time.Now().Before(w.broken[who])
}

// due says whether a suspect is still to be looked after, and in which generation; if not, its check is over.
func (w *Watch) due(m membership.Member) (generation uint64, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, member := w.generation.Rank(m.ID, m.Incarnation)
	if due = member && w.suspected(nameOf(m)); !due {
		delete(w.checked, nameOf(m))
	}
	return w.generation.Number, due
}

// check probes a suspect, and accuses it with what was found, for as long as it is suspected and a member.
func (w *Watch) check(ctx context.Context, m membership.Member) {
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
			w.o.Log.Debug("a probe tells nothing", "suspect", m.ID, "why", found.Detail)
		default:
			removed, why, err := w.o.Accuse(ctx, generation, m, found, since)
			if ctx.Err() == nil {
				w.o.Log.Info("suspected", "suspect", m.ID, "evidence", found.Finding, "detail", found.Detail, "removed", removed, "why", why, "error", err)
			}
			if removed || errors.Is(err, membership.ErrFenced) {
				return // it is out, or this worker itself; that is not checked again
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

func (w *Watch) isLost(m membership.Member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[nameOf(m)]
}

// probe asks a suspect, and once more if it does not answer. since is when it was first asked.
func (w *Watch) probe(ctx context.Context, m membership.Member) (found probe.Result, since time.Time) {
	since = time.Now()
	at := probe.Target{Addr: m.Addr, ID: m.ID, Incarnation: m.Incarnation}
	for range 2 {
		found = probe.Ping(ctx, at, w.o.TLS, w.o.Dial, pingTimeout*time.Duration(1+w.node.Health()))
		if found.Finding != probe.Silent && found.Finding != probe.Unreachable {
			break
		}
	}
	return found, since
}
