package plan

import (
	"fmt"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
)

// Bytes is what one worker takes, by kind. The kinds up to Replica are the allocator's, taken before the first step and held to
// the end; the others are taken by the process beside it, at most.
type Bytes struct {
	Parameters    int64 `json:"parameters"`     // as they are computed with, or the part that peers gather
	Gradients     int64 `json:"gradients"`      // the fold's f32 accumulators
	Optimizer     int64 `json:"optimizer"`      // f32 masters (where they are not the parameters) and moments
	Gathered      int64 `json:"gathered"`       // stage 3: the units that are in use or on their way
	LeafGradients int64 `json:"leaf_gradients"` // one leaf's gradient of the units under way
	Activations   int64 `json:"activations"`    // of one micro-batch
	Workspace     int64 `json:"workspace"`      // scratch, and a chunk of the logits
	Staging       int64 `json:"staging"`        // parameters on their way to the wire's format
	Replica       int64 `json:"replica"`        // another worker's masters, moments and gradient

	Receive    int64 `json:"receive"`    // what has arrived and is not added yet
	Checkpoint int64 `json:"checkpoint"` // the copy that is written while training goes on
	Process    int64 `json:"process"`    // assumed: the program, its runtime and its libraries
}

// Allocated is what the allocator takes.
func (b Bytes) Allocated() int64 {
	return b.Parameters + b.Gradients + b.Optimizer + b.Gathered + b.LeafGradients + b.Activations + b.Workspace + b.Staging + b.Replica
}

// Total is all kinds together.
func (b Bytes) Total() int64 { return b.Allocated() + b.Receive + b.Checkpoint + b.Process }

// processBytes is assumed for a worker's program: code, runtime, libraries, gRPC's windows, the tokenizer and the data's
// tokens. On SmolLM2 with two workers and a small data set it was 70 MiB: resident set less the other kinds.
const processBytes = 128 << 20

// format is a numeric format: so many bytes for a block of so many elements. Padded lengths are whole blocks of any.
type format struct{ bytes, block int64 }

func (f format) of(elems int64) int64 { return elems / f.block * f.bytes }

var formats = map[string]format{"f32": {4, 1}, "bf16": {2, 1}, "int8": {260, 256}}

// shape is what memory, wire and time depend on.
type shape struct {
	cfg          spec.Config
	units        []spec.Unit
	world        int
	stage        shard.Stage
	recompute    bool
	act          int64  // bytes of an activation and of a parameter that is computed with
	wireParams   format // of parameters
	wireGrads    format // of leaf gradients
	tree         bool   // sharding.reduction: tree8
	batch, t     int    // sequences and tokens of a micro-batch
	leaves       int
	receive      int64 // the job's receive budget
	mastersAlias bool  // the f32 masters are the parameters
	replicas     bool  // each shard has a replica on another worker
}

func newShape(j *job.Job, cfg spec.Config, world int, stage shard.Stage, recompute bool) shape {
	s := shape{
		cfg: cfg, units: cfg.Units(), world: world, stage: stage, recompute: recompute,
		act: formats[j.Train.Precision].bytes, wireParams: formats[j.Sharding.Wire.Parameters], wireGrads: formats[j.Sharding.Wire.Gradients], tree: j.Sharding.Reduction == "tree8",
		batch: j.Train.MicroBatchSize, t: j.Data.SequenceLen, leaves: j.Train.Leaves(), receive: int64(j.Collective.ReceiveBudgetBytes),
	}
	s.mastersAlias = s.act == 4 && s.wireParams == formats["f32"]
	s.replicas = j.Recovery.Replicas > 0 && stage != shard.Replicated && world > 1
	return s
}

// layouts are the units' layouts at this world size.
func (s shape) layouts() ([]shard.Layout, error) {
	out := make([]shard.Layout, len(s.units))
	for i, u := range s.units {
		l, err := shard.NewLayout(u.Elems, s.world)
		if err != nil {
			return nil, fmt.Errorf("unit %s: %w", u.Name, err)
		}
		out[i] = l
	}
	return out, nil
}

// bytes is what one worker takes. It mirrors what train and model take from their allocator, buffer by buffer; the test
// beside it holds the two equal.
func (s shape) bytes() (Bytes, error) {
	layouts, err := s.layouts()
	if err != nil {
		return Bytes{}, err
	}
	var b Bytes
	schedule := shard.NewSchedule(len(s.units), s.cfg.Tied, s.stage)
	slots := make([]int64, 2+shard.BlockSlots) // padded elements of each slot's largest unit
	var maxPadded, maxPart, owned int64
	for i, l := range layouts {
		params := format{bytes: s.act, block: 1}
		if s.stage == shard.Parameters {
			params = s.wireParams
		}
		p := shard.PersistentBytes(l, s.stage, params.of, s.mastersAlias)
		b.Parameters += p.Parameters
		b.Gradients += p.Gradients
		b.Optimizer += p.Optimizer
		padded, part := int64(l.PaddedElems()), int64(l.PartElems())
		if s.tree {
			b.Gradients += 12 * part
		}
		if s.replicas {
			b.Replica += 16 * part
		}
		slot := schedule.Slot(i)
		slots[slot] = max(slots[slot], padded)
		maxPadded, maxPart = max(maxPadded, padded), max(maxPart, part)
		lo, hi := l.Owned(0)
		owned += int64(hi - lo)
	}
	for _, elems := range slots {
		if s.stage == shard.Parameters {
			b.Gathered += s.wireParams.of(elems)
			if s.wireParams != (format{bytes: s.act, block: 1}) {
				b.Gathered += elems * s.act
			}
		}
		b.LeafGradients += elems * 4
		if s.wireGrads != formats["f32"] {
			b.LeafGradients += s.wireGrads.of(elems)
		}
		if s.world > 1 { // the owner's slice from each peer, of the one reduction that a slot has under way
			b.Receive += s.wireGrads.of(elems/int64(s.world)) * int64(s.world-1)
		}
	}
	b.Receive = min(b.Receive, s.receive)
	if s.staged() {
		b.Staging = s.wireParams.of(maxPadded)
	}
	b.Workspace = maxPart / shard.BlockElems * 8
	b.Activations += s.activations()
	b.Workspace += s.workspace()
	b.Checkpoint = owned * 12
	b.Process = processBytes
	return b, nil
}

// staged says whether parameters go to the wire's format through memory of its own: see train.
func (s shape) staged() bool {
	act := format{bytes: s.act, block: 1}
	switch s.stage {
	case shard.Parameters:
		return false
	case shard.Replicated:
		return s.wireParams != formats["f32"] && s.wireParams != act
	}
	return s.wireParams != act
}

// activations is what a micro-batch's forward leaves for its backward, in bytes. Legend: see model.
func (s shape) activations() int64 {
	c, rows := s.cfg, s.rows()
	qkv, att := s.heads()
	x := s.act * rows * int64(c.Width)
	saved := s.act*rows*(qkv+att+int64(c.Width)+2*int64(c.FeedForward)) + 4*rows*int64(c.Heads)
	kept := int64(c.Layers)
	if s.recompute {
		kept = 1
	}
	// Tokens, positions and document starts; every block's input; the last block's output.
	return 3*4*rows + kept*saved + int64(c.Layers)*x + x
}

// workspace is what all blocks share, and the head's, in bytes.
func (s shape) workspace() int64 {
	c, rows := s.cfg, s.rows()
	qkv, att := s.heads()
	d, f, v := int64(c.Width), int64(c.FeedForward), int64(c.Vocab)
	counted, chunk := roundRows(rows), chunkRows(rows, v)
	b := 2 * 4 * int64(s.t) * int64(c.HeadWidth/2)  // the rotary tables
	b += 3 * s.act * rows * d                       // the stream's gradient, the normed input, a branch's output
	b += s.act * rows * (max(f, qkv) + max(f, att)) // wide and its gradient
	b += 4*rows + 4*rows*int64(c.Heads)             // the norm's and attention's row sums
	b += s.act*counted*d + s.act*(counted+1)*d      // the head's rows that count, and their gradient
	b += 4*chunk*v + 3*4*counted + 4*rows           // logits, and what rows they are of
	if s.act != 4 {
		b += s.act * chunk * v
	}
	return b
}

func (s shape) rows() int64 { return int64(s.batch) * int64(s.t) }

// heads is the elements of a row of queries, keys and values, and of what attention returns.
func (s shape) heads() (qkv, att int64) {
	c := s.cfg
	return int64((c.Heads + 2*c.KVHeads) * c.HeadWidth), int64(c.Heads * c.HeadWidth)
}

// These two are model's: rows that count come in granules, and logits in chunks of at most so many elements.
const (
	rowGranule  = 32
	chunkLogits = 8 << 20
)

func roundRows(rows int64) int64 { return (rows + rowGranule - 1) / rowGranule * rowGranule }

func chunkRows(rows, vocab int64) int64 {
	most := max(chunkLogits/vocab/rowGranule*rowGranule, rowGranule)
	chunks := (roundRows(rows) + most - 1) / most
	return roundRows((rows + chunks - 1) / chunks)
}
