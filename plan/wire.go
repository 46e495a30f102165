package plan

import "github.com/zerofleet/zerofleet/shard"

// Wire is what one rank sends in a step, in bytes of tensors: rank 0, which has the most leaves. Frames and records add less
// than a thousandth.
type Wire struct {
	Gathers   int64 `json:"gathers"`   // stage 3: parameters, before a unit is used
	Gradients int64 `json:"gradients"` // leaf gradients, to their owners
	Update    int64 `json:"update"`    // stages 1 and 2: parameters after the update; stage 0: the reduced gradient
	Replica   int64 `json:"replica"`   // the reduced gradient of the own shard, to the worker that keeps its replica
	// Operations is how many collectives carry them.
	Operations int64 `json:"operations"`
}

// Total is all of it.
func (w Wire) Total() int64 { return w.Gathers + w.Gradients + w.Update + w.Replica }

// wire walks the schedule of one step.
func (s shape) wire() (Wire, error) {
	layouts, err := s.layouts()
	if err != nil {
		return Wire{}, err
	}
	toPeers := func(unit int, f format) int64 { return int64(s.world-1) * f.of(int64(layouts[unit].PartElems())) }
	var w Wire
	if s.world == 1 {
		return w, nil
	}
	schedule := shard.NewSchedule(len(s.units), s.cfg.Tied, s.stage)
	// Every round leaves the same units in their slots, so all rounds after the first are alike.
	first, rounds := int64(1), int64(s.rounds())
	for _, times := range []int64{first, rounds - first} {
		if times == 0 {
			continue
		}
		for _, a := range schedule.Train() {
			switch a.Do {
			case shard.Gather:
				w.Gathers += times * toPeers(a.Unit, s.wireParams)
				w.Operations += times
			case shard.Reduce:
				w.Gradients += times * toPeers(a.Unit, s.wireGrads)
				w.Operations += times
			}
		}
	}
	for i := range s.units {
		if s.replicas {
			w.Replica += 4 * int64(layouts[i].PartElems())
			w.Operations++
		}
		switch s.stage {
		case shard.Replicated:
			w.Update += toPeers(i, formats["f32"])
			w.Operations++
		case shard.OptimizerState, shard.Gradients:
			w.Update += toPeers(i, s.wireParams)
			w.Operations++
		}
	}
	return w, nil
}

// rounds is how many leaves rank 0 computes in a step.
func (s shape) rounds() int { return (s.leaves + s.world - 1) / s.world }
