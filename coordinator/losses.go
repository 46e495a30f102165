package coordinator

import (
	"strconv"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// losses sums up events: what happened to a run's workers. What a coordinator did not see itself is in the file.
type losses struct {
	workers, generations      uint32
	seconds                   float64
	movedBytes, restoredBytes uint64
	removed                   map[life]bool // counted, and perhaps seen to end later
}

func (l *losses) see(e eventJSON) {
	switch e.Type {
	case "worker_died", "worker_removed":
		incarnation, _ := strconv.ParseUint(e.Fields["incarnation"], 10, 64)
		of := life{e.Fields["worker"], incarnation}
		if e.Type == "worker_removed" {
			if l.removed == nil {
				l.removed = map[life]bool{}
			}
			l.removed[of] = true
		} else if l.removed[of] {
			return // a process that hung, and was counted when it was removed
		}
		l.workers++
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
	return &zerofleetv1.Losses{Workers: l.workers, Generations: l.generations, Seconds: l.seconds, MovedBytes: l.movedBytes, RestoredBytes: l.restoredBytes}
}
