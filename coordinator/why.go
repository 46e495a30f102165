package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

const (
	// stragglerShare is the share of the others' steps from which on a worker is said to hold them up, stragglerLead how many
	// times longer they wait for it than for any other. Below them ranks that compute the same are apart too.
	stragglerShare, stragglerLead = 0.05, 2
	// whyEvents is how many of the newest events of a run are looked at, whyCauses how many of them are told.
	whyEvents, whyCauses = 500, 5
)

// Explanation says why a run is stuck, slow, suspended or failed: Lines in words, the rest for programs.
type Explanation struct {
	Job       string       `json:"job"`
	RunDir    string       `json:"run_dir"`
	State     string       `json:"state"`
	Message   string       `json:"message,omitempty"`
	Waits     []HeldUp     `json:"waits"`               // for whom others wait at this moment, the oldest operation first
	Steps     *StepShares  `json:"steps,omitempty"`     // where the newest steps' time went
	Straggler *Straggler   `json:"straggler,omitempty"` // who is last most of the time
	Causes    []CauseEvent `json:"causes"`              // what has gone wrong before, the oldest first
	Lines     []string     `json:"lines"`
}

// HeldUp is one rank that others wait for.
type HeldUp struct {
	Rank      int     `json:"rank"`
	Worker    string  `json:"worker"`
	PID       int64   `json:"pid,omitempty"`
	Host      string  `json:"host,omitempty"`
	What      string  `json:"what"` // it does not do: "has not arrived at"
	Operation string  `json:"operation"`
	Seconds   float64 `json:"seconds"`                  // since the operation's last progress
	Silent    float64 `json:"silent_seconds,omitempty"` // since it was heard of, by anybody; 0: that is not known
	Last      string  `json:"last,omitempty"`           // its last known operation
	Waiting   []int   `json:"waiting_ranks"`
}

// StepShares is where the time of the newest steps went, over all workers.
type StepShares struct {
	Steps   uint32             `json:"steps"`        // of each worker, at most
	Seconds float64            `json:"step_seconds"` // of one
	Shares  map[string]float64 `json:"shares"`       // as metrics.jsonl names them
}

// Straggler is a worker that the others wait for, step after step.
type Straggler struct {
	Rank   int     `json:"rank"`
	Worker string  `json:"worker"`
	PID    int64   `json:"pid,omitempty"`
	Host   string  `json:"host,omitempty"`
	Share  float64 `json:"share"` // of the others' time
}

// CauseEvent is a line of events.jsonl that tells of a trouble.
type CauseEvent struct {
	Time time.Time `json:"time"`
	Type string    `json:"type"`
	What string    `json:"what"`
	Why  string    `json:"why,omitempty"`
}

// Why explains the run in a folder.
func Why(ctx context.Context, dir string) (*Explanation, error) {
	s, err := ReadStatus(ctx, dir)
	if err != nil {
		return nil, err
	}
	events, err := newestLines[eventJSON](filepath.Join(dir, "events.jsonl"), whyEvents)
	if err != nil {
		return nil, err
	}
	steps, err := newestLines[stepJSON](filepath.Join(dir, "metrics.jsonl"), windowSteps)
	if err != nil {
		return nil, err
	}
	return explain(s, events, steps), nil
}

// newestLines reads the last n lines of a file of lines; none, if it is not there yet. The line that is being written is
// left out.
func newestLines[T any](path string, n int) ([]T, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	defer f.Close()
	var texts [][]byte
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if texts = append(texts, line); len(texts) > n {
			texts = texts[1:]
		}
	}
	out := make([]T, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal(text, &out[i]); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return out, nil
}

// explain is a pure function of what a coordinator knows, and of the newest lines of a run's record.
func explain(s *Status, events []eventJSON, steps []stepJSON) *Explanation {
	x := &Explanation{Job: s.GetJob(), RunDir: s.GetRunDir(), State: s.GetState(), Message: s.GetMessage(), Waits: heldUp(s), Causes: causes(events)}
	times := timesOf(s, steps)
	x.Steps, x.Straggler = shares(times), straggler(s, times)
	x.Lines = x.words(s)
	return x
}

// words says all of it, the most telling first.
func (x *Explanation) words(s *Status) []string {
	head := fmt.Sprintf("%s: %s", x.Job, x.State)
	if x.Message != "" {
		head += ": " + x.Message
	}
	lines := []string{head}
	for _, w := range x.Waits {
		lines = append(lines, w.String())
	}
	if x.State == "loading" || x.State == "recovering" {
		for _, w := range s.GetWorkers() {
			if p := w.GetPhase(); w.GetRank() >= 0 && (p == membership.Loading || p == membership.Recovering || p == zerofleetv1.Phase_PHASE_UNSPECIFIED) {
				lines = append(lines, fmt.Sprintf("%s is %s", named(int(w.GetRank()), w.GetId(), w.GetPid(), w.GetHost()), PhaseName(p)))
			}
		}
	}
	if why := s.GetCheckpointFailing(); why != "" {
		lines = append(lines, "no newer checkpoint: "+why)
	}
	if p := x.Steps; p != nil {
		lines = append(lines, fmt.Sprintf("a step takes %.3f s: %.0f %% computing, %.0f %% waiting for other workers, %.0f %% updating, %.0f %% reading data, %.0f %% waiting for checkpoints",
			p.Seconds, 100*p.Shares["compute"], 100*p.Shares["exposed_communication"], 100*p.Shares["update"], 100*p.Shares["data"], 100*p.Shares["checkpoint"]))
	}
	if g := x.Straggler; g != nil {
		lines = append(lines, fmt.Sprintf("%s holds the others up: they wait for it to arrive for %.0f %% of each step",
			named(g.Rank, g.Worker, g.PID, g.Host), 100*g.Share))
	}
	for _, c := range x.Causes {
		line := fmt.Sprintf("%s  %s", c.Time.UTC().Format(time.RFC3339), c.What)
		if c.Why != "" {
			line += ": " + c.Why
		}
		lines = append(lines, line)
	}
	if len(x.Waits) == 0 && x.Straggler == nil && len(x.Causes) == 0 && x.State == "training" {
		lines = append(lines, "nobody waits for a worker that is late, and nothing has gone wrong")
	}
	return lines
}

// named names a worker to a person.
func named(rank int, worker string, pid int64, host string) string {
	text := "worker " + worker
	if pid != 0 {
		text += fmt.Sprintf(", process %d", pid)
		if host != "" {
			text += " on " + host
		}
	}
	if rank < 0 {
		return text
	}
	return fmt.Sprintf("rank %d (%s)", rank, text)
}

// String is as in "rank 2 (worker 3, process 1234 on host) has not arrived at all-gather #41 block.3 [8192 f32] for 12s: it
// was last heard of 11s ago; ranks 0, 1 wait for it".
func (w HeldUp) String() string {
	text := fmt.Sprintf("%s %s %s for %s: ", named(w.Rank, w.Worker, w.PID, w.Host), w.What, w.Operation, age(w.Seconds))
	if w.Silent > 0 {
		text += fmt.Sprintf("it was last heard of %s ago; ", age(w.Silent))
	}
	if w.Last != "" {
		text += fmt.Sprintf("its last known operation is %s; ", w.Last)
	}
	ranks := make([]string, len(w.Waiting))
	for i, r := range w.Waiting {
		ranks[i] = fmt.Sprint(r)
	}
	if len(ranks) == 1 {
		return text + fmt.Sprintf("rank %s waits for it", ranks[0])
	}
	return text + fmt.Sprintf("ranks %s wait for it", strings.Join(ranks, ", "))
}

func age(seconds float64) string {
	if seconds >= 10 {
		return fmt.Sprintf("%.0f s", seconds)
	}
	return fmt.Sprintf("%.1f s", seconds)
}

// heldUp is for whom ranks wait at this moment. A rank that itself waits for another is held up and no cause, unless they
// wait for each other.
func heldUp(s *Status) []HeldUp {
	workers := map[string]*zerofleetv1.WorkerStatus{}
	waits := map[int]bool{} // ranks that wait for another one
	for _, w := range s.GetWorkers() {
		workers[w.GetId()] = w
		for _, c := range w.GetStall().GetCauses() {
			if c.GetRank() != uint32(w.GetRank()) {
				waits[int(w.GetRank())] = true
			}
		}
	}
	all := []HeldUp{}
	for _, w := range s.GetWorkers() {
		stall := w.GetStall()
		for _, c := range stall.GetCauses() {
			i := slices.IndexFunc(all, func(h HeldUp) bool { return h.Rank == int(c.GetRank()) })
			if i < 0 {
				i = len(all)
				of := workers[c.GetWorker()]
				silent := of.GetSilentNanos()
				if silent == 0 { // this coordinator has not heard of it: its peers have
					silent = c.GetSilentNanos()
				}
				all = append(all, HeldUp{Rank: int(c.GetRank()), Worker: c.GetWorker(), PID: of.GetPid(), Host: of.GetHost(), Silent: seconds(silent)})
			}
			h := &all[i]
			if waited := seconds(stall.GetWaitedNanos()); waited > h.Seconds { // what is oldest says most
				h.Seconds, h.What, h.Operation, h.Last = waited, c.GetWhat(), stall.GetOperation(), c.GetLast()
			}
			h.Waiting = append(h.Waiting, int(w.GetRank()))
		}
	}
	roots := slices.DeleteFunc(slices.Clone(all), func(h HeldUp) bool { return waits[h.Rank] })
	if len(roots) == 0 {
		roots = all
	}
	for i := range roots {
		slices.Sort(roots[i].Waiting)
	}
	slices.SortStableFunc(roots, func(a, b HeldUp) int {
		switch {
		case a.Seconds > b.Seconds:
			return -1
		case a.Seconds < b.Seconds:
			return 1
		}
		return a.Rank - b.Rank
	})
	return roots
}

func seconds(nanos int64) float64 { return time.Duration(nanos).Seconds() }

// timesOf is where the time of each worker's newest steps went: as they tell, and of a run that nobody runs any more as its
// metrics tell.
func timesOf(s *Status, steps []stepJSON) map[string]*zerofleetv1.StepTimes {
	times := map[string]*zerofleetv1.StepTimes{}
	for _, w := range s.GetWorkers() {
		if t := w.GetTimes(); t.GetSteps() > 0 && w.GetRank() >= 0 {
			times[w.GetId()] = t
		}
	}
	if len(times) > 0 || len(steps) == 0 {
		return times
	}
	newest := steps[len(steps)-1].Generation
	windows := map[string]*stepWindow{}
	for _, l := range steps {
		if l.Generation != newest || l.Worker == "" {
			continue
		}
		if windows[l.Worker] == nil {
			windows[l.Worker] = &stepWindow{}
		}
		windows[l.Worker].add(&membership.StepLine{Step: l.Step, Generation: l.Generation, Seconds: l.Seconds, WaitedFor: l.WaitedFor})
	}
	for id, w := range windows {
		times[id] = w.sum()
	}
	return times
}

// shares sums up where time went; nil of no steps.
func shares(times map[string]*zerofleetv1.StepTimes) *StepShares {
	out := &StepShares{Shares: map[string]float64{}}
	var total, counted float64
	for _, t := range times {
		out.Steps = max(out.Steps, t.GetSteps())
		counted += float64(t.GetSteps())
		for k, v := range t.GetSeconds() {
			out.Shares[k] += v
			total += v
		}
	}
	if total <= 0 {
		return nil
	}
	for k := range out.Shares {
		out.Shares[k] /= total
	}
	out.Seconds = total / counted
	return out
}

// straggler is the worker that the others wait for the longest, if that is worth telling.
func straggler(s *Status, times map[string]*zerofleetv1.StepTimes) *Straggler {
	var worst *Straggler
	var next float64 // the share of who is second
	for _, w := range s.GetWorkers() {
		var waited, total float64
		for id, t := range times {
			if id == w.GetId() {
				continue
			}
			waited += t.GetWaitedFor()[w.GetId()]
			for _, v := range t.GetSeconds() {
				total += v
			}
		}
		if total <= 0 {
			continue
		}
		share := waited / total
		if worst != nil && share <= worst.Share {
			next = max(next, share)
			continue
		}
		if worst != nil {
			next = worst.Share
		}
		worst = &Straggler{Rank: int(w.GetRank()), Worker: w.GetId(), PID: w.GetPid(), Host: w.GetHost(), Share: share}
	}
	if worst == nil || worst.Share < stragglerShare || worst.Share < stragglerLead*next {
		return nil
	}
	return worst
}

// troubles are the events that say what went wrong.
var troubles = []string{"worker_died", "worker_removed", "generation_over", "checkpoint_failed", "checkpoint_refused", "replica_differs",
	"fingerprint_differs", "exactness_ended", "disturbed", "draining", "suspended", "suspending", "unheard", "metrics_missing"}

// causes are the newest events that tell of a trouble, the oldest first.
func causes(events []eventJSON) []CauseEvent {
	out := []CauseEvent{}
	for _, e := range events {
		if !slices.Contains(troubles, e.Type) {
			continue
		}
		c := CauseEvent{Time: e.Time, Type: e.Type, What: e.What, Why: e.Why}
		if stalled := e.Fields["stalled"]; stalled != "" {
			c.Why = strings.TrimPrefix(c.Why+"; at its end "+stalled, "; ")
		}
		out = append(out, c)
	}
	return out[max(0, len(out)-whyCauses):]
}

// WriteWhy writes x for a person, a fact a line.
func WriteWhy(w io.Writer, x *Explanation) error {
	if _, err := fmt.Fprintln(w, strings.Join(x.Lines, "\n")); err != nil {
		return fmt.Errorf("write explanation: %w", err)
	}
	return nil
}

// WriteWhyJSON writes x as one JSON document.
func WriteWhyJSON(w io.Writer, x *Explanation) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(x); err != nil {
		return fmt.Errorf("write explanation: %w", err)
	}
	return nil
}
