package shard

import "fmt"

// Stage is how much of the training state is cut among ranks.
type Stage int

// The ZeRO stages. Leaves are reduced to their owner at once at every stage, so
// OptimizerState and Gradients keep the same bytes and differ in name only.
const (
	Replicated     Stage = iota // 0: every rank holds everything
	OptimizerState              // 1: optimizer state
	Gradients                   // 2: and gradients
	Parameters                  // 3: and parameters
)

// Validate refuses a stage that is not one of the four.
func (s Stage) Validate() error {
	if s < Replicated || s > Parameters {
		return fmt.Errorf("sharding stage %d: want 0, 1, 2 or 3", int(s))
	}
	return nil
}

// Bytes is what a rank keeps for a unit between steps.
type Bytes struct {
	Parameters, Gradients, Optimizer int64
}

// Add is the sum by kind.
func (b Bytes) Add(c Bytes) Bytes {
	return Bytes{b.Parameters + c.Parameters, b.Gradients + c.Gradients, b.Optimizer + c.Optimizer}
}

// Total is all kinds together.
func (b Bytes) Total() int64 { return b.Parameters + b.Gradients + b.Optimizer }

// PersistentBytes is what one rank keeps for a unit at stage s: parameters, of which
// so many take size bytes as they are computed with, f32 gradient accumulators, and the
// optimizer's f32 master, m and v. When the masters are the parameters (f32
// compute and wire) they count as parameters, once.
//
// Per parameter, with bf16: 18 at stage 0, 2+16/W at 1 and 2, 18/W at 3; with
// masters that are the parameters: 16, 4+12/W, 16/W.
func PersistentBytes(l Layout, s Stage, size func(elems int64) int64, mastersAreParameters bool) Bytes {
	whole, part := int64(l.PaddedElems()), int64(l.PartElems())
	params, state := whole, part
	if s == Replicated {
		state = whole
	}
	if s == Parameters {
		params = part
	}
	b := Bytes{Parameters: size(params), Gradients: state * 4, Optimizer: state * 12}
	if mastersAreParameters {
		b.Parameters, b.Optimizer = params*4, state*8
	}
	return b
}
