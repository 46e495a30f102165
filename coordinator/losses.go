package coordinator

import (
	"fmt"
	"strconv"
	"time"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// losses sums up events: what happened to a run's workers. What a coordinator did not see itself is in the file.
type losses struct {
	workers, generations      uint32
	seconds                   float64
	movedBytes, restoredBytes uint64
	drained                   uint32
	redone                    uint64
	generation, over, settled uint64        // the newest that are told of
	since                     time.Time     // the loss that is being recovered from was seen; zero: none is
	removed                   map[life]bool // counted, and perhaps seen to end later
	joined                    map[life]bool // told of
	checkpointed              uint64        // step of the newest checkpoint
	checkpointedIn            uint64        // its generation
	checkpointFailures        uint32
	failing                   string // why a newer one than that is not there yet
	damagedReplicas           uint32
	exactUntil                *uint64 // the step after which a worker of other bits was admitted first; nil: none was
}

func (l *losses) see(e eventJSON) {
	switch e.Type {
	case "worker_died", "worker_removed":
		of := life{e.Fields["worker"], e.count("incarnation")}
		if e.Type == "worker_removed" {
			if l.removed == nil {
				l.removed = map[life]bool{}
			}
			l.removed[of] = true
		} else if l.removed[of] {
			return // a process that hung, and was counted when it was removed
		}
		l.workers++
		l.lose(e.Time)
	case "worker_joined":
		if l.joined == nil {
			l.joined = map[life]bool{}
		}
		l.joined[life{e.Fields["worker"], e.count("incarnation")}] = true
	case "worker_drained":
		l.drained++
	case "checkpoint":
		l.checkpointed, l.checkpointedIn, l.failing = e.count("step"), e.count("generation"), ""
	case "checkpoint_failed":
		l.checkpointFailures++
		if step := e.count("step"); step > l.checkpointed {
			l.failing = fmt.Sprintf("of step %d: %s", step, e.Why)
		}
	case "replica_differs":
		l.damagedReplicas++
	case "exactness_ended":
		if step := e.count("step"); l.exactUntil == nil || step < *l.exactUntil {
			l.exactUntil = &step
		}
	case "generation":
		if l.generations++; e.Fields["previous"] != "" {
			l.lose(e.Time)
		}
		l.generation = max(l.generation, e.count("generation"))
		l.redone += e.count("redone")
	case "generation_over":
		l.lose(e.Time)
		l.over = max(l.over, e.count("generation"))
	case "suspended":
		l.since = time.Time{}
	case "settled":
		l.settled = max(l.settled, e.count("generation"))
		seconds, _ := strconv.ParseFloat(e.Fields["seconds"], 64) // like count
		l.seconds += seconds
		l.movedBytes += e.count("received_bytes")
		l.restoredBytes += e.count("restored_bytes")
		l.since = time.Time{}
	}
}

// lose starts the clock of a recovery, if it does not run.
func (l *losses) lose(at time.Time) {
	if l.since.IsZero() {
		l.since = at
	}
}

// count is a field that counts something. One that is missing or damaged counts as nothing: a sum is no reason to refuse a
// run.
func (e eventJSON) count(field string) uint64 {
	n, _ := strconv.ParseUint(e.Fields[field], 10, 64)
	return n
}

func (l losses) proto() *zerofleetv1.Losses {
	return &zerofleetv1.Losses{Workers: l.workers, Generations: l.generations, Seconds: l.seconds, MovedBytes: l.movedBytes, RestoredBytes: l.restoredBytes,
		Drained: l.drained, StepsRedone: l.redone, CheckpointFailures: l.checkpointFailures, DamagedReplicas: l.damagedReplicas, ExactUntil: l.exactUntil}
}
