package membership

import (
	"time"

	"google.golang.org/protobuf/proto"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Known is what one life of a worker knows of its job. Whoever has seen something of a job is asked for it by a coordinator
// whose etcd was restored from an older copy.
type Known struct {
	Generation  Generation // the newest; Number 0: none yet
	Settled     Generation // the one that Mark.Settled names; Number 0: none, or it has not seen it
	Mark        Mark
	Instruction Instruction
	// Fingerprint is what the job's kernels compute, FingerprintOf the worker that announced it; "": not known.
	Fingerprint, FingerprintOf string
	// Committed is the step of the newest checkpoint that it has committed, in generation CommittedIn; 0: none.
	Committed, CommittedIn uint64
}

// KnownFromProto is what a worker tells.
func KnownFromProto(p *zerofleetv1.Known) Known {
	return Known{
		Generation: GenerationFromProto(p.GetGeneration()), Settled: GenerationFromProto(p.GetSettled()),
		Mark:        Mark{Settled: p.GetMark().GetSettled(), Over: p.GetMark().GetOver(), Why: p.GetMark().GetWhy()},
		Instruction: Instruction{Sequence: p.GetInstruction().GetSequence(), Kind: InstructionKind(p.GetInstruction().GetKind()), Why: p.GetInstruction().GetWhy()},
		Fingerprint: p.GetFingerprint(), FingerprintOf: p.GetFingerprintWorker(),
		Committed: p.GetCommittedStep(), CommittedIn: p.GetCommittedGeneration(),
	}
}

// Equal says whether g and h are the same agreement, to the last field.
func (g Generation) Equal(h Generation) bool { return proto.Equal(g.Proto(), h.Proto()) }

// Proto is i on the wire.
func (i Instruction) Proto() *zerofleetv1.Instruction {
	return &zerofleetv1.Instruction{Sequence: i.Sequence, Kind: zerofleetv1.InstructionKind(i.Kind), Why: i.Why}
}

// Proto is m on the wire.
func (m Mark) Proto() *zerofleetv1.Mark {
	return &zerofleetv1.Mark{Settled: m.Settled, Over: m.Over, Why: m.Why}
}

// memory is what a session remembers, to tell it to each coordinator that it meets. The session's mutex guards it.
type memory struct {
	registration *zerofleetv1.RegisterRequest
	seen         map[uint64]Generation // the newest, and those that a mark may still name
	told         *zerofleetv1.Known    // the fields that this worker has sent
	drainBy      time.Time             // deadline of told.Drain
}

func newMemory(r *zerofleetv1.RegisterRequest) memory {
	return memory{registration: r, seen: map[uint64]Generation{}, told: &zerofleetv1.Known{}}
}

// forget drops the generations that no mark will name any more.
func (m *memory) forget(before uint64) {
	for number := range m.seen {
		if number < before {
			delete(m.seen, number)
		}
	}
}

// remember notes what this worker has sent.
func (s *Session) remember(note func(told *zerofleetv1.Known)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	note(s.memory.told)
}

// known is all that this session can tell.
func (s *Session) known() *zerofleetv1.Known {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := proto.CloneOf(s.memory.told)
	k.Registration = s.memory.registration
	k.Mark, k.Instruction = s.mark.Proto(), s.instruction.Proto()
	if s.generation.Number > 0 {
		k.Generation = s.generation.Proto()
	}
	if g, ok := s.memory.seen[s.mark.Settled]; ok && g.Number > 0 {
		k.Settled = g.Proto()
	}
	if k.Drain != nil {
		k.Drain.RemainingNanos = int64(time.Until(s.memory.drainBy))
	}
	return k
}
