package data

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// The marks around tokens that count: green in a terminal, brackets elsewhere.
const (
	colourOn, colourOff = "\x1b[32m", "\x1b[0m"
	markOn, markOff     = "⟦", "⟧"
)

// Show prints what the job trains on: what became of each source's records, how
// full the sequences are, and the first n records in the order of the first epoch,
// with the tokens that count in green or, without colour, in ⟦⟧. Control
// characters of the data are printed as escapes.
func Show(w io.Writer, d *Dataset, n int, colour bool) error {
	out := bufio.NewWriter(w)
	for _, s := range d.stats {
		fmt.Fprintln(out, s)
	}
	sequences, tokens := d.firstEpoch()
	fmt.Fprintf(out, "an epoch: %d records in %d sequences of %d tokens, %.1f %% full; the job: %d steps of %d sequences\n",
		d.order.n, sequences, d.options.SequenceLen,
		100*float64(tokens)/(float64(sequences)*float64(d.options.SequenceLen)), d.steps, d.options.GlobalBatch)
	on, off := markOn, markOff
	if colour {
		on, off = colourOn, colourOff
	}
	pass := d.order.pass(0)
	for i := range min(int64(max(n, 0)), d.order.n) {
		doc := d.store.document(pass.record(i))
		counts := 0
		for _, t := range doc {
			counts += int(t >> 31)
		}
		fmt.Fprintf(out, "\n--- record %d: %d tokens, %d count\n%s\n", i+1, len(doc), counts, d.paint(doc, on, off))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("show data: %w", err)
	}
	return nil
}

// firstEpoch counts the sequences, and the tokens in them, that begin in the first epoch.
func (d *Dataset) firstEpoch() (sequences int, tokens int64) {
	s := d.Stream(Cursor{}, 0)
	var docs []int64
	for s.at.Epoch == 0 {
		docs = s.sequence(docs[:0])
		sequences++
		for _, i := range docs {
			tokens += int64(d.store.length(i))
		}
	}
	return sequences, tokens
}

// paint decodes a document, run by run of tokens that count or do not.
func (d *Dataset) paint(doc []uint32, on, off string) string {
	var b strings.Builder
	for i := 0; i < len(doc); {
		var ids []int32
		counts := doc[i] & counted
		for ; i < len(doc) && doc[i]&counted == counts; i++ {
			ids = append(ids, int32(doc[i]&^counted))
		}
		text := fmt.Sprint(ids)
		if d.decoder != nil {
			text = printable(d.decoder.Decode(ids))
		}
		if counts != 0 {
			text = on + text + off
		}
		b.WriteString(text)
	}
	return b.String()
}

// printable escapes what could move a terminal's cursor or change its colours.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
