package model

import (
	"fmt"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/shard"
)

// maxWorkers is how many workers a state has room for: all that ever live.
const maxWorkers = 5

// life is what has become of a worker.
type life uint8

const (
	absent life = iota // it has not come yet
	alive
	dead // and the coordinator has not seen it
	gone // dead, and seen
	left // the planner let it go: fenced
)

// phase is where a living worker is; a dead one's is where it was.
type phase uint8

const (
	waiting  phase = iota // ready, and in no generation
	running               // in a generation that it knows to be settled
	leaving               // it has committed the step after which all agreed to end the generation
	promised              // never to advance again in generation gen
	taking                // over the state, in generation gen
	shared                // its share of generation gen's state is in place, and it has said so
)

// What a worker has of the open step, and of the state that it takes over.
const (
	grad    uint8 = 1 << iota // its own reduced gradient
	ward                      // its ward's, in what it keeps as a replica
	sent                      // its record is out
	asked                     // and says that the generation is to end
	agreed                    // all records of the newest step are here, and one says so
	own                       // the new shard is in place
	replica                   // the new replica is
)

// kept is a share of a generation's state.
type kept struct {
	gen  uint8 // 0: nothing
	rank uint8
	step int8
	rep  int8 // the step of the replica of its ward
}

// worker is one life of a worker, in few bytes: a state is a key of a map.
type worker struct {
	life  life
	phase phase
	gen   uint8 // the newest generation that it was in; 0: none
	has   uint8
	held  kept // of the newest generation that it knows to be settled
	built kept // of the one that it does not know to be settled
}

// state is everything: what the workers are and keep, and what the coordinator has stored.
type state struct {
	workers [maxWorkers]worker
	cur     uint16 // the newest generation: an index of machine.plans
	settled uint16 // the newest settled one
	over    uint8  // the number of the newest that is over
	asked   uint8  // the sequence of the newest instruction, which asks to end the generation
	crashes uint8
	stalls  uint8
	saved   int8 // the step of the newest checkpoint; 0: the base model
	freed   int8 // the step of the newest state that was to be saved and freed; nobody sees it
	shrunk  bool
	paused  bool
	resumed bool
}

// verb is a kind of action.
type verb uint8

const (
	crash verb = iota
	notice
	come
	shrink
	reduce
	ship
	send
	sendAsking
	commit
	promise
	giveUp
	refuse
	learn
	enter
	takeOwn
	takeReplica
	restore
	writePart
	commitSaved
	pause
	resume
	share
	markOver
	markSettled
	ask
	write
)

// action is what happened, for a history.
type action struct {
	verb verb
	who  uint8
	plan uint16 // of write: the generation
}

// next is a state that follows, or what is wrong with the action that should lead to one.
type next struct {
	act   action
	to    state
	wrong string
}

// plan is a generation that the planner made. Equal ones are kept once.
type plan struct {
	membership.Generation
	member []uint8 // by rank: which worker
	base   int8    // the step of the state that it starts with
}

func (p *plan) number() uint8 { return uint8(p.Number) }

// rank is the rank of a worker, -1 if it is no member.
func (p *plan) rank(i int) int {
	for r, w := range p.member {
		if int(w) == i {
			return r
		}
	}
	return -1
}

// machine makes states from states.
type machine struct {
	World
	Fault
	plans     []*plan
	known     map[string]uint16
	decisions map[state]decision
	parts     map[[2]int][]uint8 // worlds before and after: by new rank, the old ranks with a part of its shard
	counts    Result
}

func newMachine(w World, f Fault) (*machine, error) {
	if w.Workers < 1 || w.Workers+w.Joiners > maxWorkers {
		return nil, fmt.Errorf("world of %d workers and %d joiners: want 1 to %d in all", w.Workers, w.Joiners, maxWorkers)
	}
	w.Steps, w.Min = max(w.Steps, 1), max(w.Min, 1)
	m := &machine{World: w, Fault: f, known: map[string]uint16{}, decisions: map[state]decision{}, parts: map[[2]int][]uint8{}}
	for from := 1; from <= maxWorkers; from++ {
		for to := 1; to <= maxWorkers; to++ {
			if err := m.reshard(from, to); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// reshard finds whose parts make which: of a unit that every world divides.
func (m *machine) reshard(from, to int) error {
	const elems = 60 * shard.BlockElems
	a, err := shard.NewLayout(elems, from)
	if err != nil {
		return err
	}
	b, err := shard.NewLayout(elems, to)
	if err != nil {
		return err
	}
	moves, err := shard.Reshard(a, b)
	if err != nil {
		return err
	}
	masks := make([]uint8, to)
	for _, x := range moves {
		masks[x.To] |= 1 << x.From
	}
	m.parts[[2]int{from, to}] = masks
	return nil
}

// first is the first generation, settled, before its first step.
func (m *machine) first() state {
	var s state
	g := membership.Generation{Number: 1}
	for i := range m.Workers {
		g.Members = append(g.Members, membership.Member{ID: m.id(i), Incarnation: m.incarnation(i), Rank: i})
		s.workers[i] = worker{life: alive, phase: running, gen: 1, held: kept{gen: 1, rank: uint8(i)}}
	}
	s.cur = m.intern(g)
	s.settled = s.cur
	return s
}

func (m *machine) id(i int) string {
	if i >= m.Workers && m.Rejoin {
		i -= m.Workers
	}
	return fmt.Sprint(i)
}

func (m *machine) incarnation(i int) uint64 {
	if i >= m.Workers && m.Rejoin {
		return 2
	}
	return 1
}

// intern keeps a generation, without the reason for it, and gives its index.
func (m *machine) intern(g membership.Generation) uint16 {
	g.Why = ""
	key := fmt.Sprintf("%d %v %+v %v %v", g.Number, g.Members, g.Restore, g.Save, g.Release)
	if g.Handover != nil {
		key += fmt.Sprintf("%+v", *g.Handover)
	}
	key += fmt.Sprint(" ", g.Handled)
	if i, ok := m.known[key]; ok {
		return i
	}
	p := &plan{Generation: g}
	for _, x := range g.Members {
		for i := range m.Workers + m.Joiners {
			if m.id(i) == x.ID && m.incarnation(i) == x.Incarnation {
				p.member = append(p.member, uint8(i))
			}
		}
	}
	if g.Handover != nil {
		p.base = int8(g.Handover.Step)
	} else if g.Restore != nil {
		p.base = int8(g.Restore.Step)
	}
	i := uint16(len(m.plans))
	m.plans, m.known[key] = append(m.plans, p), i
	return i
}

// replicates says whether the ranks of a world of this size keep replicas.
func (m *machine) replicates(world int) bool { return !m.Lonely && !m.Whole && world > 1 }

func (m *machine) replicas() int {
	if m.Lonely {
		return 0
	}
	return 1
}

func (m *machine) result(states int) Result {
	r := m.counts
	r.States, r.Plans, r.Generations = states, len(m.decisions), len(m.plans)
	return r
}

// words says an action for a reader.
func (m *machine) words(a action) string {
	who := "worker " + m.id(int(a.who))
	if m.incarnation(int(a.who)) > 1 {
		who += " in its next life"
	}
	switch a.verb {
	case crash:
		return who + " dies"
	case notice:
		return "the death of " + who + " is seen"
	case come:
		return who + " comes"
	case shrink:
		return "the job may use fewer workers"
	case reduce:
		return who + " has its reduced gradient"
	case ship:
		return "the gradient of " + who + " is with its buddy"
	case send:
		return who + " sends its record"
	case sendAsking:
		return who + " sends its record, which asks to end the generation"
	case commit:
		return who + " commits the step"
	case promise:
		return who + " promises"
	case giveUp:
		return who + " gives up waiting, and promises"
	case refuse:
		return who + " cannot join the generation, and promises"
	case learn:
		return who + " learns that the generation is settled, and frees the old state"
	case enter:
		return who + " enters the generation"
	case takeOwn:
		return who + " has its new shard"
	case takeReplica:
		return who + " has its new replica"
	case restore:
		return who + " has read its share of the restored state"
	case writePart:
		return who + " has written what it holds"
	case commitSaved:
		return who + " commits the checkpoint"
	case pause:
		return "the job is asked to wait"
	case resume:
		return "the job is asked to go on"
	case share:
		return who + " says that its share is in place"
	case markOver:
		return "the coordinator marks the generation as over"
	case markSettled:
		return "the coordinator marks the generation as settled"
	case ask:
		return "the coordinator asks to end the generation"
	}
	return "the coordinator writes " + m.describe(a.plan)
}

// describe says a generation in words. A prime marks a replica.
func (m *machine) describe(i uint16) string {
	p := m.plans[i]
	s := fmt.Sprintf("generation %d of", p.Number)
	for _, x := range p.Members {
		s += " " + x.ID
	}
	if h := p.Handover; h != nil {
		s += fmt.Sprintf(", from generation %d at step %d:", h.Settled, h.Step)
		for old, x := range h.Holders {
			s += fmt.Sprintf(" %d<-%d", old, x.Rank)
			if x.Replica {
				s += "'"
			}
		}
		if p.Save {
			s += ", to a checkpoint"
		}
		return s
	}
	if p.Restore != nil {
		return s + fmt.Sprintf(", from the checkpoint of step %d", p.Restore.Step)
	}
	return s + ", from the base model"
}
