// Package grouptest is the conformance suite of collective.Group. A transport is done when
// Run passes for it:
//
//	func TestGroup(t *testing.T) {
//		grouptest.Run(t, func(t testing.TB, world int) []collective.Group { ... })
//	}
package grouptest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/collective"
)

// Open makes the Groups of a new generation, one per rank. The suite closes them.
type Open func(t testing.TB, world int) []collective.Group

// Worlds are the world sizes that the suite runs.
var Worlds = []int{1, 2, 3, 4, 5, 8}

// patience bounds every wait of the suite. Only a transport that hangs meets it.
const patience = 30 * time.Second

// Run runs the suite, at some world sizes or at all.
func Run(t *testing.T, open Open, worlds ...int) {
	if len(worlds) == 0 {
		worlds = Worlds
	}
	for _, world := range worlds {
		t.Run(fmt.Sprintf("world=%d", world), func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, []collective.Group, *rand.Rand){
				"AllGather":     testAllGather,
				"ReduceScatter": testReduceScatter,
				"AllReduce":     testAllReduce,
				"Exchange":      testExchange,
				"SendRecv":      testSendRecv,
				"Broadcast":     testBroadcast,
				"Overlap":       testOverlap,
				"Stats":         testStats,
				"Records":       testRecords,
				"Invalid":       testInvalid,
				"Close":         testClose,
			} {
				t.Run(name, func(t *testing.T) { test(t, openAll(t, open, world), seeded(t)) })
			}
		})
	}
	for name, test := range map[string]func(*testing.T, Open){
		"Mismatch":   testMismatch,
		"Cancel":     testCancel,
		"PeerCloses": testPeerCloses,
		"FoldFails":  testFoldFails,
		"Stalled":    testStalled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

func openAll(t *testing.T, open Open, world int) []collective.Group {
	t.Helper()
	groups := open(t, world)
	if len(groups) != world {
		t.Fatalf("opened %d groups, want %d", len(groups), world)
	}
	t.Cleanup(func() {
		// All at once: a Group that leaves in order waits for the others to know.
		eachRank(groups, func(_ int, g collective.Group) {
			if err := g.Close(); err != nil {
				t.Errorf("close rank %d: %v", g.Rank(), err)
			}
		})
	})
	for r, g := range groups {
		if g.Rank() != r || g.Size() != world || g.Generation() == 0 {
			t.Fatalf("group %d is rank %d of %d in generation %d", r, g.Rank(), g.Size(), g.Generation())
		}
	}
	return groups
}

// seeded gives a generator whose seed a failing test prints.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 1))
}

func eachRank(groups []collective.Group, f func(r int, g collective.Group)) {
	var wg sync.WaitGroup
	for r, g := range groups {
		wg.Go(func() { f(r, g) })
	}
	wg.Wait()
}

// patient is the context of an operation in the suite.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wait reports an operation's error.
func wait(t *testing.T, p *collective.Pending, format string, a ...any) bool {
	t.Helper()
	if err := p.Wait(patient(t)); err != nil {
		t.Errorf("%s: %v", fmt.Sprintf(format, a...), err)
		return false
	}
	return true
}
