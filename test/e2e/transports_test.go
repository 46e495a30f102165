package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What carries the tensors, how many workers and threads there are and what is cut changes no bit. Everything runs with
// ZEROFLEET_TABLE=full, which also prints the table; otherwise two world sizes and one model.
func TestOneAnswerOverTransports(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	models, workers, threads := []string{"tiny"}, []int{2, 3}, []int{2}
	if os.Getenv("ZEROFLEET_TABLE") == "full" {
		models, workers, threads = []string{"tiny", "tiny-untied"}, []int{1, 2, 3, 4, 5, 8}, []int{2, 3}
	}
	type variant struct {
		by                      string
		workers, stage, threads int
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
		want := ""
		for _, v := range all {
			run := fmt.Sprintf("runs/%s-%s-%d-%d-%d", model, v.by, v.workers, v.stage, v.threads)
			p.run("launch", "job.yaml", "--workers", fmt.Sprint(v.workers), "--set", "model.base=preset://"+model,
				"--set", "collective.transport="+v.by, "--set", fmt.Sprintf("sharding.stage=%d", v.stage),
				"--set", fmt.Sprintf("workers.threads=%d", v.threads), "--set", "train.steps=3", "--set", "output.dir="+run).wants(t, 0)
			got, step := p.hash(run)
			if want == "" {
				want = got
			}
			if got != want || step != 3 {
				t.Errorf("%+v: hash %.12s of step %d, want %.12s of step 3", v, got, step, want)
			}
			carried := fmt.Sprintf("peers_by_transport=map[%s:%d]", v.by, v.workers-1)
			if log := p.read(run, "logs", "worker-0.log"); v.workers > 1 && !strings.Contains(log, carried) {
				t.Errorf("%+v: the log does not say %q", v, carried)
			}
		}
		t.Logf("%s: %d runs, hash %.12s", model, len(all), want)
	}
	p.wantsNothingLeft()
}
