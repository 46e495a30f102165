package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// event is a line of a run's events.jsonl.
type event struct {
	Time            time.Time
	Type, What, Why string
	Fields          map[string]string
}

// number is the generation that an event is about; 0 for none.
func (e event) number() uint64 {
	n, _ := strconv.ParseUint(e.Fields["generation"], 10, 64)
	return n
}

func (e event) bytes(field string) int64 {
	n, _ := strconv.ParseInt(e.Fields[field], 10, 64)
	return n
}

// step is a line of a run's metrics.jsonl.
type step struct {
	Step       uint64
	Time       time.Time
	Tokens     int64
	Generation uint64
	WorldSize  int               `json:"world_size"`
	SentBytes  map[string]uint64 `json:"sent_bytes"`
}

func (s step) sent() (n int64) {
	for _, b := range s.SentBytes {
		n += int64(b)
	}
	return n
}

// each decodes the whole lines of a file; none when it is not there.
func each[T any](path string) (list []T) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		var v T
		if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &v) == nil {
			list = append(list, v)
		}
	}
	return list
}

// events are the run's of one of the kinds, in order.
func (f *fleet) events(kinds ...string) (list []event) {
	for _, e := range each[event](filepath.Join(f.run, "events.jsonl")) {
		for _, k := range kinds {
			if e.Type == k {
				list = append(list, e)
			}
		}
	}
	return list
}

func (f *fleet) steps() []step { return each[step](filepath.Join(f.run, "metrics.jsonl")) }

// once checks that the run's steps are 1 to the last, each once.
func (f *fleet) once() (last uint64, err error) {
	for i, s := range f.steps() {
		if last = s.Step; last != uint64(i)+1 {
			return last, fmt.Errorf("line %d of metrics.jsonl is of step %d", i+1, last)
		}
	}
	return last, nil
}

// work is what the workers wrote down of what they computed.
type work struct {
	began     map[uint64]map[uint64]bool // by step: the generations in which a leaf of it was computed
	committed map[uint64]uint64          // by step: the last generation that committed it
	by        map[uint64]int             // by step: how many workers have, in any generation
}

// worked reads logs/worker-*.leaves. A step that a worker committed twice in one generation is an error.
func (f *fleet) worked() (work, error) {
	w := work{map[uint64]map[uint64]bool{}, map[uint64]uint64{}, map[uint64]int{}}
	paths, err := filepath.Glob(filepath.Join(f.run, "logs", "*.leaves"))
	if err != nil || len(paths) == 0 {
		return w, errors.Join(fmt.Errorf("find what was computed in %s: %d files", f.run, len(paths)), err)
	}
	type line struct {
		Generation, Step uint64
		Committed        bool
	}
	for _, path := range paths {
		mine := map[line]bool{}
		for _, l := range each[line](path) {
			if !l.Committed {
				if w.began[l.Step] == nil {
					w.began[l.Step] = map[uint64]bool{}
				}
				w.began[l.Step][l.Generation] = true
				continue
			}
			if mine[l] {
				return w, fmt.Errorf("%s: step %d is committed twice in generation %d", filepath.Base(path), l.Step, l.Generation)
			}
			mine[l] = true
			w.by[l.Step]++
			w.committed[l.Step] = max(w.committed[l.Step], l.Generation)
		}
	}
	return w, nil
}

// redone is how many steps a generation had computed a leaf of, or more, when another one had to compute them again.
func (w work) redone(generation uint64) (n int) {
	for step, in := range w.began {
		if by, ok := w.committed[step]; ok && in[generation] && by > generation {
			n++
		}
	}
	return n
}

// splits are the seconds from a loss to the next committed step, and what it took.
type splits struct {
	Detect        float64 `json:"detect"`  // until the coordinator knew: a process's end, or a peer's promise
	Agree         float64 `json:"agree"`   // from there until the next generation was written
	Reshard       float64 `json:"reshard"` // from there until every shard and replica was in place: settled
	Redo          float64 `json:"redo"`    // from there until the next step was committed
	Total         float64 `json:"total"`
	Workers       int     `json:"workers"` // that went on
	MovedBytes    int64   `json:"moved_bytes"`
	RestoredBytes int64   `json:"restored_bytes"`
	Redone        int     `json:"steps_redone"`
}

// recovered finds in the record how the run got over a loss at a time, in a generation. ok is false while it has not.
func (f *fleet) recovered(at time.Time, lost uint64, kinds ...string) (s splits, ok bool) {
	var detected, agreed, settled event
	for _, e := range f.events(append(kinds, "generation_over", "generation", "settled")...) {
		switch {
		case e.Time.Before(at):
		case e.Type == "generation" && e.number() > lost:
			agreed = e
		case e.Type == "settled" && e.number() > lost:
			settled = e
		case e.Type != "generation" && e.Type != "settled" && detected.Time.IsZero():
			detected = e
		}
		if !settled.Time.IsZero() {
			break
		}
	}
	if settled.Time.IsZero() || detected.Time.IsZero() {
		return s, false
	}
	for _, x := range f.steps() {
		if x.Generation < settled.number() {
			continue
		}
		return splits{
			Detect: detected.Time.Sub(at).Seconds(), Agree: agreed.Time.Sub(detected.Time).Seconds(),
			Reshard: settled.Time.Sub(agreed.Time).Seconds(), Redo: x.Time.Sub(settled.Time).Seconds(), Total: x.Time.Sub(at).Seconds(),
			Workers: x.WorldSize, MovedBytes: settled.bytes("received_bytes"), RestoredBytes: settled.bytes("restored_bytes"),
		}, true
	}
	return s, false
}

// stepSeconds are the times between committed steps of one generation, the first of each left out.
func stepSeconds(steps []step, world int) (list []float64) {
	for i := 2; i < len(steps); i++ {
		a, b := steps[i-1], steps[i]
		if a.Generation == b.Generation && steps[i-2].Generation == b.Generation && (world == 0 || b.WorldSize == world) {
			list = append(list, b.Time.Sub(a.Time).Seconds())
		}
	}
	return list
}
