package data

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// Encoder turns records into tokens. Several goroutines use it at once.
type Encoder interface {
	// Encode returns the record's tokens and which of them count: by default
	// the assistant's turns, the completion, or all of a text, with the tokens
	// that end them.
	Encode(Record) (Document, error)
	// Vocab is the number of ids: every id is in [0, Vocab).
	Vocab() int
	// Pad is the id that fills a sequence; it counts nowhere.
	Pad() int32
}

// Decoder is what an Encoder may also be, so that Show can print its tokens.
type Decoder interface {
	Decode(ids []int32) string
}

// result is an encoded task.
type result struct {
	store store
	stats Stats
	err   error // with file and line
}

// encodeAll reads and encodes every source, workers at a time, and hands each
// task's result to collect in the order of the files. The error, if any, is that
// of the first faulty record in that order, whichever goroutine met one first.
func (o *Options) encodeAll(ctx context.Context, enc Encoder, workers int, collect func(source int, r result)) error {
	g, ctx := errgroup.WithContext(ctx)
	tasks := make(chan task)
	order := make(chan task, 2*workers) // bounds what is read ahead of the collector
	var readErr error                   // written before order is closed
	g.Go(func() error {
		defer close(order)
		defer close(tasks)
		send := func(t task) error {
			t.result = make(chan result, 1)
			select {
			case order <- t:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case tasks <- t:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for i := range o.Sources {
			if readErr = o.readSource(ctx, i, send); readErr != nil {
				return nil // reported after the records before it
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			for t := range tasks {
				t.result <- o.encode(ctx, enc, t)
			}
			return nil
		})
	}
	g.Go(func() error {
		for t := range order {
			select {
			case r := <-t.result:
				if r.err != nil {
					return r.err
				}
				collect(t.source, r)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return readErr
	})
	return g.Wait()
}

// encode runs one task.
func (o *Options) encode(ctx context.Context, enc Encoder, t task) (r result) {
	format := o.Sources[t.source].Format
	if t.lines == nil {
		r.err = o.encodeText(enc, t, &r)
		return r
	}
	for _, l := range t.lines {
		if ctx.Err() != nil {
			r.err = ctx.Err()
			return r
		}
		record, err := parseLine(l.bytes, format)
		var doc Document
		if err == nil {
			doc, err = o.document(enc, record)
		}
		if err == nil {
			err = o.keep(doc, &r)
		}
		if err != nil {
			r.err = fmt.Errorf("%s:%d: %w", t.file, l.number, err)
			return r
		}
	}
	return r
}

// encodeText cuts a text file's tokens into pieces of a sequence.
func (o *Options) encodeText(enc Encoder, t task, r *result) error {
	if err := validUTF8(t.text); err != nil {
		return fmt.Errorf("%s: %w", t.file, err)
	}
	if len(t.text) == 0 {
		return nil
	}
	doc, err := o.document(enc, Record{Format: Text, Text: string(t.text)})
	if err != nil {
		return fmt.Errorf("%s: %w", t.file, err)
	}
	for i := int64(0); len(doc.Tokens) > 0; i++ {
		n := min(o.SequenceLen, len(doc.Tokens))
		piece := Document{Tokens: doc.Tokens[:n], Counts: doc.Counts[:n]}
		doc = Document{Tokens: doc.Tokens[n:], Counts: doc.Counts[n:]}
		if !o.wants(t.source, t.holdOut, i) {
			continue
		}
		if err := o.keep(piece, r); err != nil {
			return fmt.Errorf("%s: %w", t.file, err)
		}
	}
	return nil
}

// document encodes one record, applies LossOn and checks what the encoder gave.
func (o *Options) document(enc Encoder, record Record) (Document, error) {
	record.LossOn = o.LossOn
	doc, err := enc.Encode(record)
	if err != nil {
		return Document{}, err
	}
	if len(doc.Counts) != len(doc.Tokens) {
		return Document{}, fmt.Errorf("encoder gave %d tokens and %d marks", len(doc.Tokens), len(doc.Counts))
	}
	for _, id := range doc.Tokens {
		if id < 0 || int(id) >= enc.Vocab() {
			return Document{}, fmt.Errorf("token id %d is outside the vocabulary of %d", id, enc.Vocab())
		}
	}
	if o.LossOn == OnAll {
		for i := range doc.Counts {
			doc.Counts[i] = true
		}
	}
	return doc, nil
}

// errOverlong is what Overlong "error" reports.
var errOverlong = errors.New("record longer than the sequence")

// keep puts a document into the result, as Overlong says, and counts it.
func (o *Options) keep(doc Document, r *result) error {
	r.stats.Records++
	if n := len(doc.Tokens); n > o.SequenceLen {
		r.stats.Longest = max(r.stats.Longest, n)
		switch o.Overlong {
		case Refuse:
			return fmt.Errorf("%w: %d tokens, sequence_len is %d (overlong: error)", errOverlong, n, o.SequenceLen)
		case Drop:
			r.stats.Dropped++
			return nil
		}
		r.stats.Truncated++
		doc = Document{Tokens: doc.Tokens[:o.SequenceLen], Counts: doc.Counts[:o.SequenceLen]}
	}
	r.stats.Longest = max(r.stats.Longest, len(doc.Tokens))
	if !doc.trains() {
		r.stats.Untrained++
		return nil
	}
	r.store.add(doc)
	r.stats.Kept++
	r.stats.Tokens += int64(len(doc.Tokens))
	for i := 1; i < len(doc.Counts); i++ {
		if doc.Counts[i] {
			r.stats.LossTokens++
		}
	}
	return nil
}
