package data

import (
	"errors"
	"fmt"
	"math"
)

// Format says what a source's records look like.
type Format string

// The formats. A .txt file holds text: the whole file is one text, cut into
// pieces of SequenceLen tokens. Any other file is JSONL, one record a line.
const (
	Messages   Format = "messages"   // {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}
	Completion Format = "completion" // {"prompt": "...", "completion": "..."}
	Text       Format = "text"       // {"text": "..."}
)

// LossOn says which tokens count in the loss.
type LossOn string

// The choices of LossOn. The zero value is the format's own: assistant for
// messages, completion for completion, all for text.
const (
	OnAssistant  LossOn = "assistant"
	OnCompletion LossOn = "completion"
	OnAll        LossOn = "all"
)

// Overlong says what becomes of a record with more tokens than a sequence.
type Overlong string

// The choices of Overlong.
const (
	Truncate Overlong = "truncate" // its first SequenceLen tokens are kept
	Drop     Overlong = "drop"     // it is left out
	Refuse   Overlong = "error"    // Open fails and names it
)

// Part says which records of the sources to take when Options.HoldOut is set.
type Part string

// The parts. The zero value takes everything, and so does any value when
// nothing is held out.
const (
	Kept Part = "kept" // what is not held out
	Held Part = "held" // what is held out
)

// Source is a set of files of one format.
type Source struct {
	// Path is a file, or a pattern as filepath.Match has it, whose files are
	// read in the order of their names. A path without * ? [ is taken literally.
	Path   string
	Format Format
	// Weight is how often a record is seen in one epoch; 0 means 1. Of 2.25,
	// every record is seen twice and a quarter of them, a different quarter in
	// each epoch, once more.
	Weight float64
}

// Options describe a Dataset. All of them but Workers decide bits.
type Options struct {
	Sources []Source
	// SequenceLen is T, in tokens; at least 2, since a token predicts the next.
	SequenceLen int
	// Packing puts several documents into one sequence. Without it a sequence
	// is one document and padding.
	Packing bool
	// LossOn must suit every source's format: "" is the format's own.
	LossOn LossOn
	// Overlong: "" means Truncate.
	Overlong Overlong
	// Shuffle orders each epoch by a permutation that (Seed, epoch) decides.
	// Without it, as for evaluation, records come in the order of their sources.
	Shuffle bool
	Seed    uint64
	// HoldOut is the fraction of every source's records, in [0, 1), that Part
	// Held gets and Part Kept does not: one at a place that Seed decides out of
	// each 1/HoldOut records.
	HoldOut float64
	Part    Part

	// GlobalBatch is sequences a step, MicroBatch sequences a leaf. When the
	// second does not divide the first, a step's last leaf has padding rows.
	GlobalBatch, MicroBatch int
	// Exactly one of Epochs and Steps is above 0. With Steps the records are
	// repeated, epoch after epoch, as often as needed.
	Epochs, Steps int

	// Workers is how many goroutines encode; 0 means GOMAXPROCS.
	Workers int
}

// maxSequenceLen keeps a batch's indices inside int32 with room to spare.
const maxSequenceLen = 1 << 24

// Validate reports every fault at once, each by its field.
func (o Options) Validate() error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(o.Sources) == 0 {
		bad("sources: none given")
	}
	for i, s := range o.Sources {
		if s.Path == "" {
			bad("sources[%d].path: empty", i)
		}
		if !(s.Weight >= 0) || s.Weight > 1e6 {
			bad("sources[%d].weight: %v, want 0 to 1e6", i, s.Weight)
		}
		switch s.Format {
		case Messages:
			if o.LossOn == OnCompletion {
				bad("sources[%d]: loss_on %q does not suit format %q: want assistant or all", i, o.LossOn, s.Format)
			}
		case Completion:
			if o.LossOn == OnAssistant {
				bad("sources[%d]: loss_on %q does not suit format %q: want completion or all", i, o.LossOn, s.Format)
			}
		case Text:
			if o.LossOn != "" && o.LossOn != OnAll {
				bad("sources[%d]: loss_on %q does not suit format %q: want all", i, o.LossOn, s.Format)
			}
		default:
			bad("sources[%d].format: %q, want messages, completion or text", i, s.Format)
		}
	}
	if o.SequenceLen < 2 || o.SequenceLen > maxSequenceLen {
		bad("sequence_len: %d, want 2 to %d", o.SequenceLen, maxSequenceLen)
	}
	switch o.LossOn {
	case "", OnAssistant, OnCompletion, OnAll:
	default:
		bad("loss_on: %q, want assistant, completion or all", o.LossOn)
	}
	switch o.Overlong {
	case "", Truncate, Drop, Refuse:
	default:
		bad("overlong: %q, want truncate, drop or error", o.Overlong)
	}
	if !(o.HoldOut >= 0 && o.HoldOut < 1) {
		bad("hold_out: %v, want at least 0 and less than 1", o.HoldOut)
	}
	switch o.Part {
	case "", Kept, Held:
	default:
		bad("part: %q, want kept or held", o.Part)
	}
	if o.MicroBatch < 1 || o.GlobalBatch < 1 {
		bad("global batch %d and micro-batch %d: want both at least 1", o.GlobalBatch, o.MicroBatch)
	}
	if int64(o.MicroBatch)*int64(o.SequenceLen) > math.MaxInt32 {
		bad("micro-batch %d of %d tokens: more than %d", o.MicroBatch, o.SequenceLen, math.MaxInt32)
	}
	if o.Epochs < 0 || o.Steps < 0 || (o.Epochs > 0) == (o.Steps > 0) {
		bad("epochs %d and steps %d: want exactly one above 0", o.Epochs, o.Steps)
	}
	return errors.Join(faults...)
}
