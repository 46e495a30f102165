package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/zerofleet/zerofleet/telemetry"
)

// sampled is a step of a rank: units computed one after the other, each with a wait within it, and collectives beside them that
// overlap.
func sampled(rng *rand.Rand, rank int, step int64) telemetry.StepTrace {
	t := telemetry.StepTrace{Generation: 3, Rank: rank, Step: step}
	at := step * 1e9
	began := at
	for unit := range 8 {
		took := 1000 + rng.Int64N(5000)
		name := fmt.Sprintf("block.%d", unit)
		t.Spans = append(t.Spans,
			telemetry.StepSpan{Name: "all-gather " + name, Collective: true, StartNanos: at - rng.Int64N(400), Nanos: rng.Int64N(20000)},
			telemetry.StepSpan{Name: "wait for all-gather " + name, StartNanos: at, Nanos: took / 2},
			telemetry.StepSpan{Name: "backward " + name, StartNanos: at, Nanos: took})
		at += took
	}
	t.Spans = append(t.Spans, telemetry.StepSpan{Name: fmt.Sprintf("step %d", step), StartNanos: began - 500, Nanos: at - began + 30000})
	return t
}

func TestTraceEvents(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{} // by worker: the spans of the newest steps
	for rank := range 3 {
		var lines bytes.Buffer
		for step := int64(1); step <= traceSteps+4; step++ {
			line := sampled(rng, rank, step)
			if step > 4 {
				want[fmt.Sprintf("worker %d", rank)] += len(line.Spans)
			}
			if err := json.NewEncoder(&lines).Encode(line); err != nil {
				t.Fatal(err)
			}
		}
		lines.WriteString(`{"step":99,"spans":[`) // it is being written
		if err := os.WriteFile(filepath.Join(dir, "logs", fmt.Sprintf("worker-%d%s", rank, traceSuffix)), lines.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := Trace(&out, dir); !IsBadInput(err) {
		t.Errorf("a folder that is no run: got %v, want bad input", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "job.resolved.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "etcd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Trace(&out, dir); err != nil {
		t.Fatal(err)
	}
	var events []struct {
		Name  string   `json:"name"`
		Phase string   `json:"ph"`
		PID   *int     `json:"pid"`
		TID   *int     `json:"tid"`
		Start *float64 `json:"ts"`
		Took  float64  `json:"dur"`
		Args  struct {
			Name string `json:"name"`
		} `json:"args"`
	}
	if err := json.Unmarshal(out.Bytes(), &events); err != nil {
		t.Fatalf("%v: %.200s", err, out.String())
	}
	type lane struct{ pid, tid int }
	type span struct {
		name     string
		from, to float64
	}
	lanes, names, lanesNamed := map[lane][]span{}, map[int]string{}, map[lane]string{}
	got := map[string]int{}
	for _, e := range events {
		if e.PID == nil || e.TID == nil || e.Start == nil || *e.Start < 0 || e.Name == "" {
			t.Fatalf("event %+v lacks something", e)
		}
		at := lane{*e.PID, *e.TID}
		switch {
		case e.Phase == "M" && e.Name == "process_name":
			names[at.pid] = e.Args.Name
		case e.Phase == "M" && e.Name == "thread_name":
			lanesNamed[at] = e.Args.Name
		case e.Phase == "X":
			got[names[at.pid]]++
			lanes[at] = append(lanes[at], span{e.Name, *e.Start, *e.Start + e.Took})
		default:
			t.Errorf("event %+v", e)
		}
	}
	for worker, n := range want {
		if got[worker] != n {
			t.Errorf("%s has %d spans, want %d", worker, got[worker], n)
		}
	}
	const slack = 1e-3 // microseconds: a float's last digits
	for at, spans := range lanes {
		if (at.tid == 0) != (lanesNamed[at] == "compute") || lanesNamed[at] == "" {
			t.Errorf("lane %d of %s is named %q", at.tid, names[at.pid], lanesNamed[at])
		}
		for i, a := range spans {
			for _, b := range spans[i+1:] {
				apart := a.to <= b.from+slack || b.to <= a.from+slack
				within := at.tid == 0 && b.from >= a.from-slack && b.to <= a.to+slack // what is around comes first
				if !apart && !within {
					t.Fatalf("lane %d of %s: %+v and %+v overlap", at.tid, names[at.pid], a, b)
				}
			}
		}
	}
}
