// Package membership says who is in a job: workers as leased keys with incarnations, generations as agreed lists of
// them, and the planner that chooses the next one.
//
// A worker needs Dial, then Client.Register, then the Session: it renews the lease by itself, learns generations and
// instructions, and delivers reports. All of it goes over the coordinator's gRPC; a worker never speaks to etcd. The
// coordinator's side, which does, is the package store below.
//
// A coordinator may be away for a while, and another may come back in its place at another address. No call here fails
// because of that: it waits, reads the control file again, and repeats itself until its context ends. Client.Lost says
// for how long nobody has answered.
package membership

import (
	"errors"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

var (
	// ErrFenced says that the session's lease is gone: the job has gone on without this worker, which must touch
	// nothing of it any more and may only register again, as a new incarnation.
	ErrFenced = errors.New("fenced: the lease of this worker has ended")
	// ErrClosed says that the session was closed by its own worker.
	ErrClosed = errors.New("session closed")
	// ErrEnded says that the run ends: there is nothing to do for this worker any more.
	ErrEnded = errors.New("the run has ended")
)

// Member is one worker's place in a generation.
type Member struct {
	ID          string
	Incarnation uint64
	Rank        int
	Addr        string // host:port of its collective endpoint
	Host        string // the machine it runs on
	Gossip      string // host:port of its failure detector
}

// Generation is one agreed membership of a job.
type Generation struct {
	Number  uint64
	Members []Member // Members[r] has rank r
	Why     string   // the planner's reason, in words
	Restore *Restore // what all start from, unless Handover says so; nil: the base model at step 0
	// Handover is the state that members hold already.
	Handover *Handover
	Handled  uint64 // instructions up to this sequence are carried out
	// Save says that the members write the state that Handover names to a checkpoint, each what it holds, and end the
	// generation: it never settles. With Release they then free it.
	Save, Release bool
}

// Rank is the rank of worker id's given incarnation, and whether it is a member at all.
func (g Generation) Rank(id string, incarnation uint64) (int, bool) {
	for _, m := range g.Members {
		if m.ID == id && m.Incarnation == incarnation {
			return m.Rank, true
		}
	}
	return -1, false
}

// Restore names a committed checkpoint.
type Restore struct {
	Store       string // as in the job's checkpoint.store, absolute when it is a folder
	Manifest    []byte // as checkpoint.Decode reads it
	Step        uint64
	WeightsOnly bool // the job differs from the one that wrote it: steps and moments start again
}

// Instruction is what the coordinator asks of the ranks at a boundary between steps. Of several the one with the highest
// Sequence holds; ranks agree on it through the commit record. The zero value asks for nothing.
type Instruction struct {
	Sequence uint64
	Kind     InstructionKind
	Why      string
}

// InstructionKind says what to do at the boundary. Its numbers are the wire's.
type InstructionKind uint8

// What can be asked for.
const (
	// Checkpoint writes a checkpoint and goes on.
	Checkpoint = InstructionKind(zerofleetv1.InstructionKind_INSTRUCTION_KIND_CHECKPOINT)
	// Stop writes a checkpoint and ends the run.
	Stop = InstructionKind(zerofleetv1.InstructionKind_INSTRUCTION_KIND_STOP)
	// Abandon ends the run without a checkpoint.
	Abandon = InstructionKind(zerofleetv1.InstructionKind_INSTRUCTION_KIND_ABANDON)
	// Reconfigure ends the generation: the next one has other members.
	Reconfigure = InstructionKind(zerofleetv1.InstructionKind_INSTRUCTION_KIND_RECONFIGURE)
)

func (k InstructionKind) String() string {
	switch k {
	case Checkpoint:
		return "checkpoint"
	case Stop:
		return "stop"
	case Abandon:
		return "abandon"
	case Reconfigure:
		return "reconfigure"
	}
	return "none"
}

// Phase is what a worker is doing.
type Phase = zerofleetv1.Phase

// What a worker can be doing.
const (
	Loading       = zerofleetv1.Phase_PHASE_LOADING
	Training      = zerofleetv1.Phase_PHASE_TRAINING
	Evaluating    = zerofleetv1.Phase_PHASE_EVALUATING
	Checkpointing = zerofleetv1.Phase_PHASE_CHECKPOINTING
	Done          = zerofleetv1.Phase_PHASE_DONE
	Failed        = zerofleetv1.Phase_PHASE_FAILED
	Waiting       = zerofleetv1.Phase_PHASE_WAITING    // loaded, and not in a generation
	Recovering    = zerofleetv1.Phase_PHASE_RECOVERING // building its share of a generation's state
	Draining      = zerofleetv1.Phase_PHASE_DRAINING   // its machine goes, and it leaves
)

// Outcome is how a worker's part of the job ended.
type Outcome = zerofleetv1.Outcome

// How it can have ended.
const (
	OutcomeDone    = zerofleetv1.Outcome_OUTCOME_DONE    // the job's last step is committed
	OutcomeStopped = zerofleetv1.Outcome_OUTCOME_STOPPED // stopped where it was told to, with a checkpoint
	OutcomeFailed  = zerofleetv1.Outcome_OUTCOME_FAILED
)

// GenerationFromProto and Proto translate a generation from and to the wire.
func GenerationFromProto(p *zerofleetv1.Generation) Generation {
	g := Generation{Number: p.GetNumber(), Why: p.GetWhy(), Handover: handoverFromProto(p.GetHandover()), Handled: p.GetHandled(),
		Save: p.GetSave(), Release: p.GetRelease()}
	for _, m := range p.GetMembers() {
		g.Members = append(g.Members, Member{ID: m.GetId(), Incarnation: m.GetIncarnation(), Rank: int(m.GetRank()), Addr: m.GetAddr(), Host: m.GetHost(), Gossip: m.GetGossipAddr()})
	}
	if r := p.GetRestore(); r != nil {
		g.Restore = &Restore{Store: r.GetStore(), Manifest: r.GetManifest(), Step: r.GetStep(), WeightsOnly: r.GetWeightsOnly()}
	}
	return g
}

// Proto is g on the wire.
func (g Generation) Proto() *zerofleetv1.Generation {
	p := &zerofleetv1.Generation{Number: g.Number, Why: g.Why, Handover: g.Handover.Proto(), Handled: g.Handled,
		Save: g.Save, Release: g.Release}
	for _, m := range g.Members {
		p.Members = append(p.Members, &zerofleetv1.Member{Id: m.ID, Incarnation: m.Incarnation, Rank: uint32(m.Rank), Addr: m.Addr, Host: m.Host, GossipAddr: m.Gossip})
	}
	if r := g.Restore; r != nil {
		p.Restore = &zerofleetv1.Restore{Store: r.Store, Manifest: r.Manifest, Step: r.Step, WeightsOnly: r.WeightsOnly}
	}
	return p
}
