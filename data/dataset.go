package data

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
)

// ErrEmpty is returned by Open when there is nothing to train on.
var ErrEmpty = errors.New("no training data")

// Dataset holds the encoded documents of all sources in memory, four bytes a
// token, and the order in which they are seen. It never changes after Open and
// may be used by several goroutines.
type Dataset struct {
	options Options
	store   store
	order   order
	pad     int32
	decoder Decoder // of the encoder; nil when it has none
	steps   int
	stats   []Stats
	digest  [sha256.Size]byte
}

// Stats says what became of one source's records.
type Stats struct {
	Path string
	// Records were read: of a text file, pieces. Kept, Dropped and Untrained
	// add up to it; Truncated are among the first and the last.
	Records, Kept int64
	Truncated     int64 // cut to the sequence's length
	Dropped       int64 // left out for their length
	Untrained     int64 // left out: no token counts (or none that was left after the cut)
	// Tokens of the kept records, and how many of them count.
	Tokens, LossTokens int64
	Longest            int // tokens of the longest record, before any cut
}

// String is one line for a person.
func (s Stats) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d records, %d tokens (%d count)", s.Path, s.Kept, s.Records, s.Tokens, s.LossTokens)
	if s.Truncated > 0 {
		fmt.Fprintf(&b, ", %d truncated (longest %d tokens)", s.Truncated, s.Longest)
	}
	if s.Dropped > 0 {
		fmt.Fprintf(&b, ", %d dropped as too long (longest %d tokens)", s.Dropped, s.Longest)
	}
	if s.Untrained > 0 {
		fmt.Fprintf(&b, ", %d left out: no token counts", s.Untrained)
	}
	return b.String()
}

func (s *Stats) add(o Stats) {
	s.Records += o.Records
	s.Kept += o.Kept
	s.Truncated += o.Truncated
	s.Dropped += o.Dropped
	s.Untrained += o.Untrained
	s.Tokens += o.Tokens
	s.LossTokens += o.LossTokens
	s.Longest = max(s.Longest, o.Longest)
}

// Open reads and encodes every source. It holds all tokens in memory: 4 bytes a
// token and 8 a record.
//
// A record that cannot be read or encoded is an error that names file and line.
// The error is ErrEmpty when a source has no records, or when none of the
// records has a token that counts.
func Open(ctx context.Context, o Options, enc Encoder) (*Dataset, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	if pad := enc.Pad(); pad < 0 || int(pad) >= enc.Vocab() {
		return nil, fmt.Errorf("open data: padding id %d is outside the vocabulary of %d", pad, enc.Vocab())
	}
	workers := o.Workers
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	d := &Dataset{options: o, pad: enc.Pad(), stats: make([]Stats, len(o.Sources))}
	d.decoder, _ = enc.(Decoder)
	shares := make([]share, len(o.Sources))
	records := make([]int64, len(o.Sources))
	err := o.encodeAll(ctx, enc, workers, func(source int, r result) {
		d.store.join(r.store)
		d.stats[source].add(r.stats)
		records[source] += r.store.records()
	})
	if err != nil {
		return nil, err
	}
	var first int64
	for i, n := range records {
		d.stats[i].Path = o.Sources[i].Path
		if err := d.stats[i].check(o); err != nil {
			return nil, err
		}
		weight := o.Sources[i].Weight
		if weight == 0 {
			weight = 1
		}
		shares[i] = newShare(i, first, n, weight)
		first += n
	}
	d.order = newOrder(o.Seed, o.Shuffle, shares)
	if d.order.n == 0 {
		return nil, fmt.Errorf("%w: the sources' weights leave no record", ErrEmpty)
	}
	d.digest = d.store.digest()
	d.steps = o.Steps
	if o.Epochs > 0 {
		d.steps = d.countSteps()
	}
	return d, nil
}

// check refuses a source that trains nothing.
func (s Stats) check(o Options) error {
	switch {
	case s.Kept > 0:
		return nil
	case s.Records == 0 && o.HoldOut > 0 && o.Part == Held:
		return fmt.Errorf("%s: %w: a fraction of %v holds out no record: raise it, or name a file", s.Path, ErrEmpty, o.HoldOut)
	case s.Records == 0:
		return fmt.Errorf("%s: %w: no records", s.Path, ErrEmpty)
	case s.Dropped == s.Records:
		return fmt.Errorf("%s: %w: all %d records are longer than sequence_len %d (longest %d tokens)",
			s.Path, ErrEmpty, s.Records, o.SequenceLen, s.Longest)
	case s.Truncated > 0:
		return fmt.Errorf("%s: %w: no token counts in any of %d records: %d were truncated to sequence_len %d (longest %d tokens)",
			s.Path, ErrEmpty, s.Records, s.Truncated, o.SequenceLen, s.Longest)
	}
	return fmt.Errorf("%s: %w: no token counts in any of %d records: the chat template or loss_on marks nothing",
		s.Path, ErrEmpty, s.Records)
}

// countSteps runs the packer over the whole job.
func (d *Dataset) countSteps() int {
	s := d.Stream(Cursor{}, 0)
	sequences := 0
	var docs []int64
	for {
		if docs = s.sequence(docs[:0]); len(docs) == 0 {
			break
		}
		sequences++
	}
	return (sequences + d.options.GlobalBatch - 1) / d.options.GlobalBatch
}

// Steps is how many steps the whole job has: as given, or what the epochs make.
func (d *Dataset) Steps() int { return d.steps }

// Records is how many records one epoch has, weights applied: a Cursor's Sample
// is below it.
func (d *Dataset) Records() int64 { return d.order.n }

// Stats says what became of each source's records, in the order of the sources.
func (d *Dataset) Stats() []Stats { return append([]Stats(nil), d.stats...) }

// Digest is the SHA-256 of the encoded documents in the order of the sources:
// two workers with equal digests and Options train on the same tokens.
func (d *Dataset) Digest() [sha256.Size]byte { return d.digest }
