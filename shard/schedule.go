package shard

// Verb is what an Action does.
type Verb uint8

// The verbs of a round.
const (
	// Gather starts the all-gather of Unit's parameters into its slot.
	Gather Verb = iota + 1
	// Await waits for the gather of Unit.
	Await
	// Forward computes Unit's outputs.
	Forward
	// Backward computes Unit's gradients; for the head also the loss.
	Backward
	// Reduce starts the reduce-scatter of Unit's leaf gradient.
	Reduce
)

func (v Verb) String() string {
	return [...]string{"?", "gather", "await", "forward", "backward", "reduce"}[v]
}

// Action is one entry of a schedule.
type Action struct {
	Do   Verb
	Unit int
}

// Schedule is the order in which a step's rounds gather, compute and reduce the units
// 0 (embedding), 1 .. n-2 (blocks), n-1 (head). It depends on nothing but the
// model's shape, the stage and what was done before, so every rank, an idle one
// too, starts the same collectives in the same order.
//
// At stage 3 each unit has a slot that it is gathered into. The embedding and the head
// have one each; the blocks share BlockSlots, so that block k+1 is gathered while block k
// computes. A unit stays in its slot until another one needs it or the parameters
// change: the last blocks of the forward are still there for the backward, and a tied
// embedding for the head.
type Schedule struct {
	units    int
	tied     bool
	stage    Stage
	resident []int // by slot: the unit in it, or -1
	// Serial gathers a unit when it is used and not before. What is moved is the same.
	Serial bool
}

// BlockSlots is how many blocks can be gathered at once: the one that computes and the next.
const BlockSlots = 2

// NewSchedule plans for a model of units units, at least 2: the embedding and the head.
func NewSchedule(units int, tied bool, stage Stage) *Schedule {
	s := &Schedule{units: units, tied: tied, stage: stage, resident: make([]int, 2+BlockSlots)}
	s.ParametersChanged()
	return s
}

// Slot is the slot that a unit is gathered into: 0 the embedding, 1 the head, 2 and up the blocks.
func (s *Schedule) Slot(unit int) int {
	switch unit {
	case 0:
		return 0
	case s.units - 1:
		return 1
	}
	return 2 + (unit-1)%BlockSlots
}

// ParametersChanged empties all slots: what was gathered is of the step before.
func (s *Schedule) ParametersChanged() {
	for i := range s.resident {
		s.resident[i] = -1
	}
}

// Train is one round of one leaf a rank: forward, backward, reduce.
func (s *Schedule) Train() []Action {
	head := s.units - 1
	uses := []Action{{Forward, 0}}
	for u := 1; u < head; u++ {
		uses = append(uses, Action{Forward, u})
	}
	for u := head; u >= 0; u-- {
		uses = append(uses, Action{Backward, u})
	}
	return s.expand(uses)
}

// Evaluate is one round without gradients.
func (s *Schedule) Evaluate() []Action {
	var uses []Action
	for u := range s.units {
		uses = append(uses, Action{Forward, u})
	}
	return s.expand(uses)
}

// expand adds to each use the gathers it waits for, those of the next use that find a free slot, and the reduction.
func (s *Schedule) expand(uses []Action) []Action {
	var out []Action
	awaited := make(map[int]bool)
	start := func(use Action, busy []int) {
		for _, u := range s.needs(use) {
			slot := s.Slot(u)
			if s.resident[slot] == u || contains(busy, s.resident[slot]) {
				continue
			}
			s.resident[slot] = u
			out = append(out, Action{Gather, u})
			awaited[u] = false
		}
	}
	for i, use := range uses {
		start(use, nil)
		for _, u := range s.needs(use) {
			if done, started := awaited[u]; started && !done {
				out = append(out, Action{Await, u})
				awaited[u] = true
			}
		}
		if i+1 < len(uses) && !s.Serial {
			start(uses[i+1], s.needs(use))
		}
		out = append(out, use)
		if use.Do == Backward {
			out = append(out, Action{Reduce, use.Unit})
		}
	}
	return out
}

// needs lists the units whose gathered parameters a use reads. The embedding's backward reads none.
func (s *Schedule) needs(use Action) []int {
	switch {
	case s.stage != Parameters || use.Do == Backward && use.Unit == 0:
		return nil
	case use.Unit == s.units-1 && s.tied:
		return []int{use.Unit, 0}
	}
	return []int{use.Unit}
}

func contains(list []int, x int) bool {
	for _, y := range list {
		if y == x {
			return true
		}
	}
	return false
}
