package membership_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/fleettest"
)

// simulate has members die two at a time, some of them before the recovery from the last ones is settled, and come back,
// some of them at once. It counts the recoveries from memory and those from a checkpoint.
func simulate(f *fleettest.Fleet, rounds int, random *rand.Rand) (memory, restored int, err error) {
	dead := map[string]bool{}
	kill := func(n int) {
		members := f.View.Current.Members
		var ids []string
		for _, r := range random.Perm(len(members))[:min(n, len(members)-1)] {
			if id := members[r].ID; !dead[id] {
				ids, dead[id] = append(ids, id), true
			}
		}
		f.Kill(ids...)
	}
	comeBack := func() {
		for _, id := range slices.Sorted(maps.Keys(dead)) {
			if random.IntN(3) == 0 {
				f.Join(id)
				delete(dead, id)
			}
		}
	}
	for range rounds {
		f.Train(random.Int64N(3), func(string) bool { return random.IntN(3) > 0 })
		for kill(2); ; kill(1) {
			if random.IntN(2) == 0 {
				comeBack()
			}
			g, err := f.Recover()
			if err != nil {
				return memory, restored, err
			}
			if g != nil && g.Handover != nil {
				memory++
			} else if g != nil {
				restored++
			}
			if random.IntN(3) > 0 {
				break
			}
		}
		if err := f.Settle(); err != nil {
			return memory, restored, err
		}
		comeBack()
	}
	return memory, restored, nil
}

// No plan leaves a shard without an owner unless a rank and its buddy have both died, and then it says so and names where the
// job goes back to.
func TestSimulation(t *testing.T) {
	for _, workers := range []int{2, 5, 20, 200} {
		memory, restored := 0, 0
		for range 5 {
			seed := rand.Uint64()
			f, err := fleettest.New(workers)
			if err != nil {
				t.Fatal(err)
			}
			m, r, err := simulate(f, 25, rand.New(rand.NewPCG(seed, 0)))
			if err != nil {
				t.Errorf("%d workers, seed %d: %v", workers, seed, err)
			}
			memory, restored = memory+m, restored+r
		}
		if memory == 0 || restored == 0 && workers <= 20 {
			t.Errorf("%d workers: %d recoveries from memory and %d from a checkpoint: the simulation sees nothing", workers, memory, restored)
		}
		t.Logf("%d workers: %d recoveries from memory, %d from a checkpoint", workers, memory, restored)
	}
}

// The simulation finds a plan that is wrong.
func TestTheSimulationRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*membership.Generation)
		words string
	}{
		"a shard from a rank that does not have it": {func(g *membership.Generation) {
			h := g.Handover
			h.Holders = slices.Clone(h.Holders)
			h.Holders[0].Rank = (h.Holders[0].Rank + 7) % len(g.Members)
		}, "which does not have it"},
		"a replica that is none": {func(g *membership.Generation) {
			g.Handover.Holders[0].Replica = !g.Handover.Holders[0].Replica
		}, "which does not have it"},
		"a shard forgotten": {func(g *membership.Generation) { g.Handover.Holders = g.Handover.Holders[1:] }, "19 holders of 20 shards"},
		"a step forgotten":  {func(g *membership.Generation) { g.Handover.Step-- }, "goes on from step"},
		"back for nothing":  {func(g *membership.Generation) { g.Handover = nil }, "though every shard is there"},
		"a dead member":     {func(g *membership.Generation) { g.Members[3].ID = "13" }, "it is dead"},
		"a member twice":    {func(g *membership.Generation) { g.Members[3].ID, g.Members[3].Incarnation = "0", 1 }, "named twice"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := fleettest.New(20)
			if err != nil {
				t.Fatal(err)
			}
			f.Plan = func(v membership.View, now time.Time) membership.Decision {
				d := membership.Next(v, now)
				if d.Next != nil {
					c.spoil(d.Next)
				}
				return d
			}
			f.Train(2, func(id string) bool { return id != "1" })
			f.Kill("13")
			if g, err := f.Recover(); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v and generation %+v, want an error that says %q", err, g, c.words)
			}
		})
	}
}

// A rank and its buddy that die together cost the state; two that are not each other's buddies do not.
func TestSimulatedPairs(t *testing.T) {
	for other, lost := range map[int]bool{4: true, 6: true, 3: false, 7: false} {
		f, err := fleettest.New(20)
		if err != nil {
			t.Fatal(err)
		}
		f.Kill("5", fmt.Sprint(other))
		g, err := f.Recover()
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Handover == nil; got != lost || lost && g.Restore.Step != fleettest.Checkpoint {
			t.Errorf("workers 5 and %d died: lost %v, want %v", other, got, lost)
		}
	}
}
