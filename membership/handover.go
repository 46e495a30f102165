package membership

import (
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Handover says where the state of a settled generation is: what the members of the next one build theirs from.
type Handover struct {
	Settled uint64 // the generation whose state it is
	// World is its number of ranks, and Holders[r] who has its rank r's shard. At stage 0, where every rank has
	// everything, World is 1 and every member that was in it is a holder.
	World   int
	Holders []Holder
	// Step is the newest committed step. A holder that is one behind completes it from Records, all ranks' encoded records.
	Step, OptimizerStep int64
	Records             [][]byte
	Cursor              Cursor // of the data, after Step
}

// Holder is a rank of the new generation, which has a shard as its owner or as its replica.
type Holder struct {
	Rank    int
	Replica bool
}

// Cursor is where the data stream stands.
type Cursor struct{ Epoch, Sample int64 }

// Held is one rank's share of a generation's state, as its worker reports it.
type Held struct {
	Generation          uint64
	Rank                int
	Step, OptimizerStep int64
	Records             [][]byte // what Step was computed from; nil before the generation's first step
	Cursor              Cursor
	// Distrusted says that the state was found to be damaged, at this rank or another one: no generation is built from it.
	Distrusted bool
}

// Promise is a worker's word that it has closed everything of a generation and never advances in it again.
type Promise struct {
	Incarnation uint64
	Generation  uint64
	Held        []Held
	Why         string // its part of the generation ended, in words
	OpenLeaves  int    // of the step that it has not committed
}

// of is the state of a generation among what is held.
func (p Promise) of(generation uint64) (Held, bool) {
	for _, h := range p.Held {
		if h.Generation == generation {
			return h, true
		}
	}
	return Held{}, false
}

// Mark says how far generations have come. Both numbers only grow.
type Mark struct {
	Settled uint64 // the newest whose every shard and replica is in place
	Over    uint64 // the newest that is over: its members are to promise
	Why     string // it is over
}

// Proto is h on the wire.
func (h *Handover) Proto() *zerofleetv1.Handover {
	if h == nil {
		return nil
	}
	p := &zerofleetv1.Handover{Settled: h.Settled, World: uint32(h.World), Step: uint64(h.Step), OptimizerStep: uint64(h.OptimizerStep),
		Records: h.Records, Epoch: h.Cursor.Epoch, Sample: h.Cursor.Sample}
	for _, x := range h.Holders {
		p.Holders = append(p.Holders, &zerofleetv1.Holder{Rank: uint32(x.Rank), Replica: x.Replica})
	}
	return p
}

func handoverFromProto(p *zerofleetv1.Handover) *Handover {
	if p == nil {
		return nil
	}
	h := &Handover{Settled: p.GetSettled(), World: int(p.GetWorld()), Step: int64(p.GetStep()), OptimizerStep: int64(p.GetOptimizerStep()),
		Records: p.GetRecords(), Cursor: Cursor{Epoch: p.GetEpoch(), Sample: p.GetSample()}}
	for _, x := range p.GetHolders() {
		h.Holders = append(h.Holders, Holder{Rank: int(x.GetRank()), Replica: x.GetReplica()})
	}
	return h
}

// Proto is h on the wire.
func (h Held) Proto() *zerofleetv1.HeldState {
	return &zerofleetv1.HeldState{Generation: h.Generation, Rank: uint32(h.Rank), Step: uint64(h.Step), OptimizerStep: uint64(h.OptimizerStep),
		Records: h.Records, Epoch: h.Cursor.Epoch, Sample: h.Cursor.Sample, Distrusted: h.Distrusted}
}

// HeldFromProto is the reverse of Held.Proto.
func HeldFromProto(p *zerofleetv1.HeldState) Held {
	return Held{Generation: p.GetGeneration(), Rank: int(p.GetRank()), Step: int64(p.GetStep()), OptimizerStep: int64(p.GetOptimizerStep()),
		Records: p.GetRecords(), Cursor: Cursor{Epoch: p.GetEpoch(), Sample: p.GetSample()}, Distrusted: p.GetDistrusted()}
}
