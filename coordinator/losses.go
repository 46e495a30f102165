package coordinator

import (
	"fmt"
	"strconv"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// losses sums up events: what happened to a run's workers. What a coordinator did not see itself is in the file.
type losses struct {
	workers, generations      uint32
	seconds                   float64
	movedBytes, restoredBytes uint64
	checkpointed              uint64 // step of the newest checkpoint
	checkpointFailures        uint32
	failing                   string // why a newer one than that is not there yet
	damagedReplicas           uint32
}

func (l *losses) see(e eventJSON) {
	switch e.Type {
	case "worker_died":
		l.workers++
	case "checkpoint":
		l.checkpointed, _ = strconv.ParseUint(e.Fields["step"], 10, 64)
		l.failing = ""
	case "checkpoint_failed":
		l.checkpointFailures++
		if step, _ := strconv.ParseUint(e.Fields["step"], 10, 64); step > l.checkpointed {
			l.failing = fmt.Sprintf("of step %d: %s", step, e.Why)
		}
	case "replica_differs":
		l.damagedReplicas++
	case "generation":
		l.generations++
	case "settled":
		// A field that is missing or damaged counts as nothing: a sum is no reason to refuse a run.
		seconds, _ := strconv.ParseFloat(e.Fields["seconds"], 64)
		moved, _ := strconv.ParseUint(e.Fields["received_bytes"], 10, 64)
		restored, _ := strconv.ParseUint(e.Fields["restored_bytes"], 10, 64)
		l.seconds, l.movedBytes, l.restoredBytes = l.seconds+seconds, l.movedBytes+moved, l.restoredBytes+restored
	}
}

func (l losses) proto() *zerofleetv1.Losses {
	return &zerofleetv1.Losses{Workers: l.workers, Generations: l.generations, Seconds: l.seconds, MovedBytes: l.movedBytes, RestoredBytes: l.restoredBytes,
		CheckpointFailures: l.checkpointFailures, DamagedReplicas: l.damagedReplicas}
}
