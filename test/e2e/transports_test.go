package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/job"
)

// variant is one way to run a job.
type variant struct {
	by                      string
	workers, stage, threads int
}

// What carries the tensors, how many workers and threads there are and what is cut changes no bit, and what is sent is what the
// plan says. Everything runs with ZEROFLEET_TABLE=full, which also prints the table; otherwise two world sizes and one model.
func TestOneAnswerOverTransports(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	models, workers, threads := []string{"tiny"}, []int{2, 3}, []int{2}
	if os.Getenv("ZEROFLEET_TABLE") == "full" {
		models, workers, threads = []string{"tiny", "tiny-untied"}, []int{1, 2, 3, 4, 5, 8}, []int{2, 3}
	}
	var all []variant
	for _, by := range []string{"shm", "grpc", "lanes"} {
		for _, w := range workers {
			for _, stage := range []int{0, 3} {
				all = append(all, variant{by, w, stage, 1})
			}
		}
	}
	for _, n := range threads {
		for _, w := range workers[:min(3, len(workers))] {
			all = append(all, variant{"shm", w, 3, n})
		}
	}
	for _, model := range models {
		p.wantsOneHash(model, all, "model.base=preset://"+model)
	}
	p.wantsNothingLeft()
}

// Each wire format and each order of the sum has an answer of its own, and that is one answer too.
func TestOneAnswerOfEachFormat(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	workers, wires := []int{1, 3}, []string{"int8"}
	if os.Getenv("ZEROFLEET_TABLE") == "full" {
		workers, wires = []int{1, 3, 8}, []string{"f32", "bf16", "int8"}
	}
	seen := map[string]string{}
	for _, wire := range wires {
		for _, reduction := range []string{"fold", "tree8"} {
			var all []variant
			for _, w := range workers {
				all = append(all, variant{"shm", w, 3, 1})
			}
			all = append(all, variant{"lanes", 3, 1, 1})
			name := wire + " " + reduction
			got := p.wantsOneHash(strings.ReplaceAll(name, " ", "-"), all, "sharding.reduction="+reduction,
				fmt.Sprintf("sharding.wire={parameters: %s, gradients: %s}", wire, wire), "train.global_batch_size=11", "train.micro_batch_size=1")
			if other := seen[got]; other != "" && wire != "bf16" { // whose sums are mostly exact in f32, in any order
				t.Errorf("%s and %s have one hash", name, other)
			}
			seen[got] = name
		}
	}
	p.wantsNothingLeft()
}

// wantsOneHash runs a job every way, and returns what all of them give.
func (p *place) wantsOneHash(name string, all []variant, sets ...string) string {
	p.t.Helper()
	want := ""
	for _, v := range all {
		run := fmt.Sprintf("runs/%s-%s-%d-%d-%d", name, v.by, v.workers, v.stage, v.threads)
		args := []string{"job.yaml"}
		for _, set := range append(sets, fmt.Sprintf("workers.max=%d", v.workers), "collective.transport="+v.by, fmt.Sprintf("sharding.stage=%d", v.stage),
			fmt.Sprintf("workers.threads=%d", v.threads), "train.steps=3", "output.dir="+run) {
			args = append(args, "--set", set)
		}
		p.run(append([]string{"launch", "--workers", fmt.Sprint(v.workers)}, args...)...).wants(p.t, 0)
		got, step := p.hash(run)
		if want == "" {
			want = got
		}
		if got != want || step != 3 {
			p.t.Errorf("%s %+v: hash %.12s of step %d, want %.12s of step 3", name, v, got, step, want)
		}
		carried := fmt.Sprintf("peers_by_transport=map[%s:%d]", v.by, v.workers-1)
		if log := p.read(run, "logs", "worker-0.log"); v.workers > 1 && !strings.Contains(log, carried) {
			p.t.Errorf("%s %+v: the log does not say %q", name, v, carried)
		}
		p.wantsPlannedBytes(run, args)
	}
	p.t.Logf("%s: %d runs, hash %.12s", name, len(all), want)
	return want
}

// wantsPlannedBytes compares what a worker sent in each step with what the plan of the same job says, to the byte.
func (p *place) wantsPlannedBytes(run string, args []string) {
	p.t.Helper()
	planned := p.run(append([]string{"plan", "--output", "json"}, args...)...)
	planned.wants(p.t, 0)
	var plan struct {
		Wire struct{ Gathers, Gradients, Update, Replica int64 }
	}
	if err := json.Unmarshal([]byte(planned.out), &plan); err != nil {
		p.t.Fatalf("plan: %v\n%s", err, planned.out)
	}
	ranks := strings.Fields(p.events(run, "generation")[0].Fields["workers"])
	leaves := p.leavesOf(run)
	w := plan.Wire
	receipt := int64(0) // of the gradient that the ward has shipped
	if w.Replica > 0 {
		receipt = 1
	}
	for _, s := range p.steps(run) {
		// The plan is rank 0's; whose line it is, is the line's to say. The last round may have no leaf for it.
		rank := slices.Index(ranks, s.Worker)
		rounds := func(rank int) int64 { return int64((leaves - rank + len(ranks) - 1) / len(ranks)) }
		gradients := w.Gradients / rounds(0) * rounds(rank)
		for kind, want := range map[string]int64{"all-gather": w.Gathers + w.Update, "reduce-scatter": gradients, "send": w.Replica + receipt} {
			if s.Step == 1 && kind == "all-gather" {
				continue // the first also has what was published before it
			}
			if got := s.SentBytes[kind]; got != want {
				p.t.Errorf("%s, step %d: rank %d sent %d bytes by %s, the plan says %d", run, s.Step, rank, got, kind, want)
			}
		}
	}
}

// leavesOf is how many leaves a step of a run has.
func (p *place) leavesOf(run string) int {
	p.t.Helper()
	j, err := job.Load(p.path(run, "job.resolved.yaml"), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return j.Train.Leaves()
}
