package data

import (
	"context"
	"fmt"
	"io"
)

// Stream walks a Dataset step by step. It starts no goroutine and needs no
// closing. One goroutine uses it; its GlobalBatches may be read by several.
type Stream struct {
	d    *Dataset
	at   Cursor
	step int
	pass pass
}

// Stream starts after step steps, at the cursor that they left: Stream(Cursor{}, 0)
// for a new job, or what a checkpoint kept (GlobalBatch.After and Step).
// A cursor that the data set does not have gives an error at the first Next.
func (d *Dataset) Stream(from Cursor, step int) *Stream {
	return &Stream{d: d, at: from, step: step, pass: d.order.pass(from.Epoch)}
}

// GlobalBatch is what one step trains on, by reference: Leaf makes the tokens.
type GlobalBatch struct {
	// Step counts from 1.
	Step int
	// After is where the next step starts.
	After Cursor
	// Leaves is how many leaves hold documents: ceil(Sequences / micro-batch).
	// It is below global/micro-batch only in the last step of a job of epochs.
	Leaves int
	// Sequences holds documents, at most the global batch.
	Sequences int
	// Tokens is how many tokens those documents have; LossTokens, how many of them count.
	Tokens, LossTokens int

	d    *Dataset
	docs []int64 // the records, in order
	ends []int   // ends[i] is where sequence i's records end in docs
}

// Next returns the next step's batch, or io.EOF after the last step.
func (s *Stream) Next(ctx context.Context) (*GlobalBatch, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("next batch: %w", err)
	}
	d := s.d
	if s.step >= d.steps {
		return nil, io.EOF
	}
	if s.at.Epoch < 0 || s.at.Sample < 0 || s.at.Sample >= d.order.n || s.step < 0 {
		return nil, fmt.Errorf("next batch: cursor epoch=%d sample=%d after step %d: the data has %d records an epoch",
			s.at.Epoch, s.at.Sample, s.step, d.order.n)
	}
	g := &GlobalBatch{Step: s.step + 1, d: d}
	for g.Sequences < d.options.GlobalBatch {
		before := len(g.docs)
		g.docs = s.sequence(g.docs)
		if len(g.docs) == before {
			break
		}
		g.ends = append(g.ends, len(g.docs))
		g.Sequences++
	}
	if g.Sequences == 0 {
		return nil, fmt.Errorf("next batch: step %d begins at epoch %d, after the job's last: cursor and step do not belong together",
			g.Step, s.at.Epoch)
	}
	for _, i := range g.docs {
		doc := d.store.document(i)
		g.Tokens += len(doc)
		for _, t := range doc {
			g.LossTokens += int(t >> 31)
		}
	}
	g.Leaves = (g.Sequences + d.options.MicroBatch - 1) / d.options.MicroBatch
	g.After = s.at
	s.step++
	return g, nil
}

// sequence appends the records of the next sequence to docs: none when the job
// is over.
func (s *Stream) sequence(docs []int64) []int64 {
	free := s.d.options.SequenceLen
	for s.d.options.Epochs == 0 || s.at.Epoch < int64(s.d.options.Epochs) {
		if s.pass.epoch != s.at.Epoch {
			s.pass = s.d.order.pass(s.at.Epoch)
		}
		i := s.pass.record(s.at.Sample)
		n := s.d.store.length(i)
		if n > free {
			break
		}
		free -= n
		docs = append(docs, i)
		if s.at.Sample++; s.at.Sample == s.d.order.n {
			s.at = Cursor{Epoch: s.at.Epoch + 1}
		}
		if !s.d.options.Packing {
			break
		}
	}
	return docs
}

// Leaf makes leaf i, 0 <= i < Leaves: sequences [i*micro, (i+1)*micro) of the
// global batch, [micro, SequenceLen] tokens. It allocates the Batch anew and may
// be called by several goroutines.
func (g *GlobalBatch) Leaf(i int) (Batch, error) {
	if i < 0 || i >= g.Leaves {
		return Batch{}, fmt.Errorf("leaf %d of step %d: it has %d", i, g.Step, g.Leaves)
	}
	o := g.d.options
	n := o.MicroBatch * o.SequenceLen
	all := make([]int32, 4*n)
	b := Batch{
		B: o.MicroBatch, T: o.SequenceLen,
		Tokens: all[:n:n], Labels: all[n : 2*n : 2*n], Positions: all[2*n : 3*n : 3*n], DocStart: all[3*n:],
	}
	for row := range b.B {
		at := 0
		if seq := i*o.MicroBatch + row; seq < g.Sequences {
			b.Sequences++
			first := 0
			if seq > 0 {
				first = g.ends[seq-1]
			}
			for _, doc := range g.docs[first:g.ends[seq]] {
				at = b.place(row, at, g.d.store.document(doc))
			}
		}
		for ; at < b.T; at++ {
			k := row*b.T + at
			b.Tokens[k], b.Labels[k], b.DocStart[k] = g.d.pad, -1, int32(at)
		}
	}
	return b, nil
}

// place writes a document at token `at` of a row and returns where it ends.
func (b *Batch) place(row, at int, doc []uint32) int {
	base := row*b.T + at
	for j, t := range doc {
		k := base + j
		b.Tokens[k] = int32(t &^ counted)
		b.Positions[k] = int32(j)
		b.DocStart[k] = int32(at)
		b.Labels[k] = -1
		if j+1 < len(doc) && doc[j+1]&counted != 0 {
			b.Labels[k] = int32(doc[j+1] &^ counted)
			b.LossTokens++
		}
	}
	return at + len(doc)
}
