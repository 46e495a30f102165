package coordinator

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/telemetry"
)

const (
	traceSuffix = ".trace.jsonl"
	// traceSteps is how many of the newest sampled steps a trace shows.
	traceSteps = 8
)

// traceEvent is an entry of the trace event format that Perfetto and chrome://tracing read, in its form as a JSON array:
// ph "X" is something that took a time, "M" names a worker (pid) or a lane (tid).
type traceEvent struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	PID   int            `json:"pid"`
	TID   int            `json:"tid"`
	Start float64        `json:"ts"`            // microseconds since the trace's first event
	Took  float64        `json:"dur,omitempty"` // microseconds
	Args  map[string]any `json:"args,omitempty"`
}

// Trace writes what the newest sampled steps of the run in a folder did, on every worker, for Perfetto.
func Trace(w io.Writer, dir string) error {
	state, err := stateOf(dir)
	if err != nil {
		return badInput{err}
	}
	if state != folderRun {
		return bad("%s is no run folder", dir)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "logs", "worker-*"+traceSuffix))
	if err != nil {
		return fmt.Errorf("find traces: %w", err)
	}
	workers := map[string][]telemetry.StepTrace{}
	for _, path := range paths {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "worker-"), traceSuffix)
		if workers[id], err = newestLines[telemetry.StepTrace](path, traceSteps); err != nil {
			return err
		}
	}
	events := traceEvents(workers)
	if len(events) == 0 {
		return bad("%s: no step has been sampled yet: the second one is the first that is", dir)
	}
	if err := json.NewEncoder(w).Encode(events); err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	return nil
}

// traceEvents lays out what workers tell, by id: a process each, whose first lane is its computing, with its waits, and whose
// others are the collectives that are in flight, as many as there are at once.
func traceEvents(workers map[string][]telemetry.StepTrace) []traceEvent {
	var steps []int64
	for _, traces := range workers {
		for _, t := range traces {
			steps = append(steps, t.Step)
		}
	}
	slices.Sort(steps)
	steps = slices.Compact(steps)
	if len(steps) == 0 {
		return nil
	}
	oldest := steps[max(0, len(steps)-traceSteps)]
	var origin int64
	for _, traces := range workers {
		for _, t := range traces {
			for _, s := range t.Spans {
				if t.Step >= oldest && (origin == 0 || s.StartNanos < origin) {
					origin = s.StartNanos
				}
			}
		}
	}
	var events []traceEvent
	for pid, id := range slices.SortedFunc(maps.Keys(workers), membership.CompareIDs) {
		events = append(events, workerEvents(pid, id, workers[id], oldest, origin)...)
	}
	return events
}

func workerEvents(pid int, id string, traces []telemetry.StepTrace, oldest, origin int64) []traceEvent {
	micros := func(nanos int64) float64 { return float64(nanos) / float64(time.Microsecond) }
	named := func(kind string, tid int, name string) traceEvent {
		return traceEvent{Name: kind, Phase: "M", PID: pid, TID: tid, Args: map[string]any{"name": name}}
	}
	events := []traceEvent{named("process_name", 0, "worker "+id), named("thread_name", 0, "compute")}
	var ends []int64 // by lane of collectives: when what is in it ends
	for _, t := range traces {
		if t.Step < oldest {
			continue
		}
		spans := slices.Clone(t.Spans)
		slices.SortStableFunc(spans, func(a, b telemetry.StepSpan) int { // what is around others before them
			return cmp.Or(cmp.Compare(a.StartNanos, b.StartNanos), cmp.Compare(b.Nanos, a.Nanos))
		})
		for _, s := range spans {
			tid := 0
			if s.Collective {
				lane := slices.IndexFunc(ends, func(end int64) bool { return end <= s.StartNanos })
				if lane < 0 {
					lane = len(ends)
					ends = append(ends, 0)
					events = append(events, named("thread_name", lane+1, fmt.Sprintf("communication %d", lane+1)))
				}
				ends[lane] = s.StartNanos + s.Nanos
				tid = lane + 1
			}
			events = append(events, traceEvent{Name: s.Name, Phase: "X", PID: pid, TID: tid, Start: micros(s.StartNanos - origin), Took: micros(s.Nanos),
				Args: map[string]any{"step": t.Step, "rank": t.Rank, "generation": t.Generation}})
		}
	}
	return events
}
