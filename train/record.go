package train

import (
	"encoding/binary"
	"fmt"

	"github.com/zerofleet/zerofleet/train/exactsum"
)

// Instruction is what the ranks are asked to do after a step they agree on. Of several the one
// with the highest Seq holds; 0 is none.
type Instruction struct {
	Seq  uint64
	Kind InstructionKind
}

// InstructionKind says what to do at the boundary.
type InstructionKind uint8

// What can be asked for.
const (
	// CheckpointNow writes a checkpoint and goes on.
	CheckpointNow InstructionKind = iota + 1
	// Stop writes a checkpoint and ends the run.
	Stop
	// Abandon ends the run without a checkpoint.
	Abandon
	// Reconfigure ends the generation: the next one has other members.
	Reconfigure
)

// StopReason says why a rank stops by itself, with a checkpoint.
type StopReason uint8

// The reasons; 0 is none.
const (
	// TimeUp: train.max_seconds is over by its clock.
	TimeUp StopReason = iota + 1
	// Orphaned: no coordinator for workers.orphan_seconds.
	Orphaned
)

func (s StopReason) String() string {
	switch s {
	case TimeUp:
		return "train.max_seconds is over"
	case Orphaned:
		return "no coordinator for workers.orphan_seconds"
	}
	return "none"
}

// Record is what one rank brings to a step's exchange.
type Record struct {
	Step        uint64
	SumSquares  exactsum.Sum // of its slice of the folded gradient
	LossSum     exactsum.Sum // of its leaves' tokens, not scaled
	LossTokens  uint64
	NonFinite   uint32 // 1 + canonical index of its first tensor with an Inf or a NaN; 0 if none
	Instruction Instruction
	Stop        StopReason // what makes this rank want to stop after this step
	Note        []byte     // what checkpoints have to tell the other ranks
}

// Commit is a step's commit record: the same at every rank, computed by each from all records.
type Commit struct {
	Step          uint64
	SumSquares    exactsum.Sum
	LossSum       exactsum.Sum
	LossTokens    uint64
	NonFinite     uint32
	NonFiniteRank int
	Instruction   Instruction
	Stop          StopReason // the highest of the ranks'
	Notes         [][]byte   // by rank

	records [][]byte // what it was merged from, encoded, without the notes
}

// Merge computes the commit record of the ranks' records, in rank order.
func Merge(step uint64, records []Record) (Commit, error) {
	c := Commit{Step: step, Notes: make([][]byte, len(records)), NonFiniteRank: -1}
	for rank, r := range records {
		if r.Step != step {
			return Commit{}, fmt.Errorf("merge records of step %d: rank %d is at step %d", step, rank, r.Step)
		}
		c.SumSquares.Merge(r.SumSquares)
		c.LossSum.Merge(r.LossSum)
		c.LossTokens += r.LossTokens
		if r.NonFinite != 0 && (c.NonFinite == 0 || r.NonFinite < c.NonFinite) {
			c.NonFinite, c.NonFiniteRank = r.NonFinite, rank
		}
		if r.Instruction.Seq > c.Instruction.Seq {
			c.Instruction = r.Instruction
		}
		c.Stop = max(c.Stop, r.Stop)
		c.Notes[rank] = r.Note
	}
	return c, nil
}

// MergeEncoded is Merge of encoded records.
func MergeEncoded(step uint64, encoded [][]byte) (Commit, error) {
	records := make([]Record, len(encoded))
	for rank, b := range encoded {
		if err := records[rank].UnmarshalBinary(b); err != nil {
			return Commit{}, fmt.Errorf("record of rank %d: %w", rank, err)
		}
	}
	c, err := Merge(step, records)
	if err != nil {
		return Commit{}, err
	}
	for rank, r := range records {
		c.records = append(c.records, encoded[rank][:len(encoded[rank])-len(r.Note)])
	}
	return c, nil
}

// A record on the wire: version, step, loss tokens, instruction sequence (u64 each), non-finite (u32), instruction
// kind, stop reason (u8 each), then both sums, then the note to the end.
const (
	recordVersion = 1
	recordFixed   = 1 + 8 + 8 + 8 + 4 + 1 + 1
)

// MarshalBinary encodes r.
func (r Record) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 256+len(r.Note))
	b = append(b, recordVersion)
	b = binary.LittleEndian.AppendUint64(b, r.Step)
	b = binary.LittleEndian.AppendUint64(b, r.LossTokens)
	b = binary.LittleEndian.AppendUint64(b, r.Instruction.Seq)
	b = binary.LittleEndian.AppendUint32(b, r.NonFinite)
	b = append(b, byte(r.Instruction.Kind), byte(r.Stop))
	b, err := r.SumSquares.AppendBinary(b)
	if err != nil {
		return nil, err
	}
	if b, err = r.LossSum.AppendBinary(b); err != nil {
		return nil, err
	}
	return append(b, r.Note...), nil
}

// UnmarshalBinary decodes b, whose note is not copied.
func (r *Record) UnmarshalBinary(b []byte) error {
	if len(b) < recordFixed || b[0] != recordVersion {
		return fmt.Errorf("decode record: %d bytes, version %d: want at least %d and version %d", len(b), first(b), recordFixed, recordVersion)
	}
	*r = Record{
		Step:        binary.LittleEndian.Uint64(b[1:]),
		LossTokens:  binary.LittleEndian.Uint64(b[9:]),
		Instruction: Instruction{Seq: binary.LittleEndian.Uint64(b[17:]), Kind: InstructionKind(b[29])},
		NonFinite:   binary.LittleEndian.Uint32(b[25:]),
		Stop:        StopReason(b[30]),
	}
	rest := b[recordFixed:]
	var err error
	if r.SumSquares, rest, err = exactsum.Decode(rest); err != nil {
		return fmt.Errorf("decode record: sum of squares: %w", err)
	}
	if r.LossSum, rest, err = exactsum.Decode(rest); err != nil {
		return fmt.Errorf("decode record: loss sum: %w", err)
	}
	r.Note = rest
	return nil
}

func first(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}
