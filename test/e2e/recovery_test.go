package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A row of the kill matrix: who is killed where, in a ZeRO group of four without a checkpoint.
type row struct {
	name   string
	faults []string // POINT@NUMBER:WORKER
	deaths int
	// back is what the job falls back to when a rank and its buddy are gone; "" when nothing is lost.
	back string
	set  []string
}

// All rows run with ZEROFLEET_TABLE=full, which also prints the table; otherwise those with often set.
var often = map[string]bool{
	"in the reduce-scatter": true, "between receipt and exchange": true, "in the update": true, "sending, the second": true, "before settled, the second": true,
	"two that are not buddies": true, "a rank and its buddy": true,
}

var matrix = []row{
	{name: "before backward", faults: []string{"before-backward@7:1"}, deaths: 1},
	{name: "in backward", faults: []string{"in-backward@7:2"}, deaths: 1},
	{name: "in the reduce-scatter", faults: []string{"in-reduce@7:3"}, deaths: 1},
	{name: "after backward", faults: []string{"after-backward@7:0"}, deaths: 1},
	{name: "shipping to the buddy", faults: []string{"in-ship@7:1"}, deaths: 1},
	{name: "between receipt and exchange", faults: []string{"after-receipt@7:2"}, deaths: 1},
	{name: "in the exchange", faults: []string{"in-exchange@7:3"}, deaths: 1},
	{name: "committed, not updated", faults: []string{"committed@7:0"}, deaths: 1},
	{name: "in the update", faults: []string{"in-update@7:1"}, deaths: 1},
	{name: "publishing", faults: []string{"in-publish@7:2"}, deaths: 1},
	{name: "in the gather after the update", faults: []string{"in-publish@7:2"}, deaths: 1, set: []string{"--set", "sharding.stage=2"}},
	{name: "in the update, everything replicated", faults: []string{"in-update@7:1"}, deaths: 1, set: []string{"--set", "sharding.stage=0"}},
	{name: "before its report, the second", faults: []string{"in-backward@7:1", "before-report@1:3"}, deaths: 2},
	{name: "sending, the second", faults: []string{"in-backward@7:0", "sending@2:2"}, deaths: 2},
	{name: "receiving, the second", faults: []string{"in-backward@7:0", "receiving@2:2"}, deaths: 2},
	{name: "before the last share, the second", faults: []string{"in-backward@7:0", "before-share@2:2"}, deaths: 2},
	{name: "before settled, the second", faults: []string{"in-backward@7:0", "after-share@2:2"}, deaths: 2},
	{name: "two that are not buddies", faults: []string{"in-backward@7:0", "in-backward@7:2"}, deaths: 2},
	{name: "a rank and its buddy", faults: []string{"in-backward@7:1", "before-report@1:2"}, deaths: 2, back: "the base model"},
	{name: "a rank and its buddy, with a checkpoint", faults: []string{"in-backward@7:1", "before-report@1:2"}, deaths: 2, back: "the checkpoint of step 5",
		set: []string{"--set", "checkpoint.every_steps=5"}},
	{name: "in a checkpoint", faults: []string{"in-checkpoint@5:1"}, deaths: 1, set: []string{"--set", "checkpoint.every_steps=5"}},
}

func TestKillMatrix(t *testing.T) {
	full := os.Getenv("ZEROFLEET_TABLE") == "full"
	for _, r := range matrix {
		if !full && !often[r.name] {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			worker := filepath.Join(programs, "worker-faults")
			for _, f := range r.faults {
				worker += " --fault " + f + "=kill"
			}
			args := append([]string{"launch", "job.yaml", "--workers", "4", "--set", "checkpoint.every_steps=0", "--worker", worker}, r.set...)
			p.run(args...).wants(t, 0)
			p.wantsHash("runs/job", 12)
			p.wantsSteps("runs/job", 1, 12)
			p.wantsNothingLeft()
			died, joined := p.events("runs/job", "worker_died"), p.events("runs/job", "worker_joined")
			if len(died) != r.deaths || len(joined) != 4 {
				t.Errorf("%d workers died and %d joined, want %d and 4: the survivors are the processes that began", len(died), len(joined), r.deaths)
			}
			var restored, seconds []string
			for _, e := range p.events("runs/job", "settled") {
				if e.Fields["restored_bytes"] != "0" {
					restored = append(restored, e.Fields["restored_bytes"])
				}
				if s := e.Fields["seconds"]; s != "" {
					seconds = append(seconds, s)
				}
			}
			back := ""
			for _, e := range p.events("runs/job", "generation") {
				if _, from, ok := strings.Cut(e.What, "starting from "); ok && e.Fields["generation"] != "1" && !strings.Contains(from, "in their memory") {
					back = from
				}
			}
			if back != r.back || (len(restored) > 0) != strings.Contains(r.back, "checkpoint") {
				t.Errorf("fell back to %q, want %q; bytes read from checkpoints: %v", back, r.back, restored)
			}
			redone := p.wantsDeal("runs/job", 8)
			if r.back == "" && redone > r.deaths {
				t.Errorf("%d steps were redone after %d deaths", redone, r.deaths)
			}
			t.Logf("%-40s survived; seconds from the loss to settled: %s; steps redone: %d", r.name, strings.Join(seconds, ", "), redone)
		})
	}
}

// wantsDeal checks that each leaf of each committed step was computed once, by the rank that the deal says, in the
// generation that committed it. It returns how many steps were computed in part by an earlier one: redone.
func (p *place) wantsDeal(run string, leaves int) (redone int) {
	p.t.Helper()
	members := map[uint64][]string{}
	for _, e := range p.events(run, "generation") {
		var number uint64
		fmt.Sscan(e.Fields["generation"], &number)
		members[number] = strings.Fields(e.Fields["workers"])
	}
	type leaf struct {
		Generation uint64
		Step       int
		Leaf       *int
		Committed  bool
	}
	generations := map[int]map[uint64]bool{}
	committedIn := map[int]uint64{} // a survivor's word: the last generation that committed it
	files, err := filepath.Glob(p.path(run, "logs", "*.leaves"))
	if err != nil || len(files) == 0 {
		p.t.Fatalf("%d files of leaves: %v", len(files), err)
	}
	type key struct {
		generation uint64
		step, leaf int
	}
	by := map[key][]string{}
	for _, f := range files {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "worker-"), ".leaves")
		for _, line := range lines(f) {
			var l leaf
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				p.t.Fatalf("%s: %q: %v", f, line, err)
			}
			if l.Committed {
				committedIn[l.Step] = max(committedIn[l.Step], l.Generation)
				continue
			}
			k := key{l.Generation, l.Step, *l.Leaf}
			by[k] = append(by[k], id)
			if generations[l.Step] == nil {
				generations[l.Step] = map[uint64]bool{}
			}
			generations[l.Step][l.Generation] = true
		}
	}
	for step, generation := range committedIn {
		world := members[generation]
		for leaf := range leaves {
			if got := by[key{generation, step, leaf}]; len(got) != 1 || got[0] != world[leaf%len(world)] {
				p.t.Errorf("leaf %d of step %d, committed in generation %d of workers %v: computed by %v", leaf, step, generation, world, got)
			}
		}
		if len(generations[step]) > 1 {
			redone += len(generations[step]) - 1
		}
	}
	return redone
}
