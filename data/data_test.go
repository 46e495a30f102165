package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// bytesEncoder makes a token of each byte and ends every record with 256.
type bytesEncoder struct{}

func (bytesEncoder) Vocab() int { return 257 }
func (bytesEncoder) Pad() int32 { return 256 }
func (bytesEncoder) Encode(r Record) (Document, error) {
	var d Document
	add := func(s string, counts bool) {
		for _, b := range []byte(s) {
			d.Tokens, d.Counts = append(d.Tokens, int32(b)), append(d.Counts, counts)
		}
	}
	if strings.Contains(r.Text, "refuse me") {
		return d, errors.New("refused")
	}
	add(r.Prompt, false)
	add(r.Completion+r.Text, true)
	d.Tokens, d.Counts = append(d.Tokens, 256), append(d.Counts, true)
	return d, nil
}

func write(t interface{ Fatal(...any) }, dir, name, content string) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// texts writes records whose text is unique and of the given lengths, end token included.
func texts(t interface{ Fatal(...any) }, dir, name string, lengths []int) string {
	var b strings.Builder
	for i, n := range lengths {
		id := fmt.Sprintf("%03d", i)
		fmt.Fprintf(&b, "{\"text\": %q}\n", (id + strings.Repeat("x", max(n-4, 0))))
	}
	return write(t, dir, name, b.String())
}

func mustOpen(t interface{ Fatal(...any) }, o Options) *Dataset {
	d, err := Open(context.Background(), o, bytesEncoder{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// collect runs a stream to its end, or for at most limit steps, and returns the
// leaves of each step.
func collect(t interface{ Fatal(...any) }, s *Stream, limit int) (steps []*GlobalBatch, leaves [][]Batch) {
	for len(steps) < limit {
		g, err := s.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var all []Batch
		loss := 0
		for i := range g.Leaves {
			b, err := g.Leaf(i)
			if err != nil {
				t.Fatal(err)
			}
			loss += b.LossTokens
			all = append(all, b)
		}
		if loss != g.LossTokens {
			t.Fatal("loss tokens of step and leaves differ: ", g.LossTokens, loss)
		}
		steps, leaves = append(steps, g), append(leaves, all)
	}
	return steps, leaves
}

// documents takes a batch apart again by its own description of itself.
func documents(t interface{ Fatal(...any) }, b Batch) (docs []string) {
	for row := range b.B {
		for at := 0; at < b.T; {
			k := row*b.T + at
			if int(b.DocStart[k]) != at || b.Positions[k] != 0 {
				t.Fatal("token ", k, " begins no document: ", b.DocStart[k], b.Positions[k])
			}
			end := at
			for end < b.T && int(b.DocStart[row*b.T+end]) == at {
				if int(b.Positions[row*b.T+end]) != end-at {
					t.Fatal("position: ", b.Positions[row*b.T+end], " want ", end-at)
				}
				end++
			}
			if b.Labels[row*b.T+end-1] != -1 {
				t.Fatal("a document's last token predicts something")
			}
			var text []byte
			for j := at; j < end; j++ {
				id := b.Tokens[row*b.T+j]
				if j+1 < end && b.Labels[row*b.T+j] >= 0 && b.Labels[row*b.T+j] != b.Tokens[row*b.T+j+1] {
					t.Fatal("label is not the next token")
				}
				if id < 256 {
					text = append(text, byte(id))
				}
			}
			if row >= b.Sequences && (end-at != 1 || b.Tokens[k] != 256) {
				t.Fatal("a padding row holds a document")
			}
			if end-at > 1 { // padding tokens are documents of one token
				docs = append(docs, string(text))
			}
			at = end
		}
	}
	return docs
}

// Every record is seen exactly once an epoch, whole, whatever the packing,
// batch sizes and seed; a cursor resumes exactly; the stream is its own repeat.
func TestEveryRecordOnceAndResume(t *testing.T) {
	dir := t.TempDir()
	file := 0
	rapid.Check(t, func(t *rapid.T) {
		file++
		lengths := rapid.SliceOfN(rapid.IntRange(4, 32), 1, 60).Draw(t, "lengths")
		o := Options{
			Sources:     []Source{{Path: texts(t, dir, fmt.Sprint(file, ".jsonl"), lengths), Format: Text}},
			SequenceLen: 32,
			Packing:     rapid.Bool().Draw(t, "packing"),
			Shuffle:     rapid.Bool().Draw(t, "shuffle"),
			Seed:        rapid.Uint64().Draw(t, "seed"),
			GlobalBatch: rapid.IntRange(1, 9).Draw(t, "global"),
			MicroBatch:  rapid.IntRange(1, 3).Draw(t, "micro"),
			Epochs:      rapid.IntRange(1, 3).Draw(t, "epochs"),
			Workers:     rapid.IntRange(1, 4).Draw(t, "workers"),
		}
		d := mustOpen(t, o)
		steps, leaves := collect(t, d.Stream(Cursor{}, 0), 1<<30)
		if len(steps) != d.Steps() {
			t.Fatalf("got %d steps, Steps says %d", len(steps), d.Steps())
		}
		seen := map[string]int{}
		tokens := 0
		for i, step := range leaves {
			if steps[i].Step != i+1 {
				t.Fatalf("step %d is numbered %d", i+1, steps[i].Step)
			}
			if i+1 < len(leaves) && steps[i].Sequences != o.GlobalBatch {
				t.Fatalf("step %d of %d has %d sequences, want %d", i+1, len(leaves), steps[i].Sequences, o.GlobalBatch)
			}
			tokens += steps[i].Tokens
			for _, b := range step {
				for _, doc := range documents(t, b) {
					seen[doc]++
				}
			}
		}
		if len(seen) != len(lengths) {
			t.Fatalf("saw %d different records, want %d", len(seen), len(lengths))
		}
		want := 0
		for i, n := range lengths {
			want += n * o.Epochs
			for doc, times := range seen {
				if strings.HasPrefix(doc, fmt.Sprintf("%03d", i)) && (times != o.Epochs || len(doc) != n-1) {
					t.Fatalf("record %d of %d tokens: %q seen %d times in %d epochs", i, n, doc, times, o.Epochs)
				}
			}
		}
		if tokens != want {
			t.Fatalf("steps count %d tokens, the records have %d", tokens, want)
		}
		stop := rapid.IntRange(0, len(steps)-1).Draw(t, "stop")
		var from Cursor
		if stop > 0 {
			from = steps[stop-1].After
		}
		_, again := collect(t, mustOpen(t, o).Stream(from, stop), 1<<30)
		if !reflect.DeepEqual(again, leaves[stop:]) {
			t.Fatalf("resumed after step %d: another stream", stop)
		}
	})
}

// The job of steps is the job of epochs as far as that goes, and then goes on
// with full batches.
func TestStepsGoOnIntoTheNextEpoch(t *testing.T) {
	o := Options{
		Sources:     []Source{{Path: texts(t, t.TempDir(), "a.jsonl", []int{5, 9, 12, 7, 20, 6, 8}), Format: Text}},
		SequenceLen: 24, Packing: true, Shuffle: true, Seed: 3, GlobalBatch: 2, MicroBatch: 1, Epochs: 4,
	}
	epochs, leavesE := collect(t, mustOpen(t, o).Stream(Cursor{}, 0), 1000)
	o.Epochs, o.Steps = 0, 40
	steps, leavesS := collect(t, mustOpen(t, o).Stream(Cursor{}, 0), 1000)
	if len(steps) != 40 {
		t.Fatalf("got %d steps, want 40", len(steps))
	}
	n := len(epochs) - 1 // the last one may be shorter
	if !reflect.DeepEqual(leavesE[:n], leavesS[:n]) {
		t.Fatal("steps and epochs begin differently")
	}
	for _, g := range steps {
		if g.Sequences != 2 || g.Leaves != 2 {
			t.Fatalf("step %d: %d sequences in %d leaves, want 2 in 2", g.Step, g.Sequences, g.Leaves)
		}
	}
}

// The micro-batch cuts the global order; it does not change it.
func TestLeavesAreSlicesOfOneOrder(t *testing.T) {
	path := texts(t, t.TempDir(), "a.jsonl", []int{5, 9, 12, 7, 20, 6, 8, 11, 4, 5, 6})
	var want []int32
	for _, micro := range []int{6, 1, 2, 3, 4} {
		o := Options{
			Sources: []Source{{Path: path, Format: Text}}, SequenceLen: 20, Packing: true, Shuffle: true, Seed: 1,
			GlobalBatch: 6, MicroBatch: micro, Steps: 5,
		}
		_, leaves := collect(t, mustOpen(t, o).Stream(Cursor{}, 0), 5)
		var got []int32
		for _, step := range leaves {
			for _, b := range step {
				if len(b.Tokens) != micro*20 {
					t.Fatalf("micro %d: leaf of %d tokens", micro, len(b.Tokens))
				}
				got = append(got, b.Tokens[:b.Sequences*b.T]...)
			}
		}
		if want == nil {
			want = got
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("micro-batch %d: another order", micro)
		}
	}
}

func TestLabels(t *testing.T) {
	path := write(t, t.TempDir(), "a.jsonl", `{"prompt": "ab", "completion": "cd"}`+"\n\n"+`{"prompt": "e", "completion": "f", "id": 7}`)
	o := Options{
		Sources: []Source{{Path: path, Format: Completion}}, SequenceLen: 10, Packing: true, GlobalBatch: 1, MicroBatch: 2, Epochs: 1,
	}
	_, leaves := collect(t, mustOpen(t, o).Stream(Cursor{}, 0), 2)
	const e = 256
	pad := func(row []int32, with int32) []int32 {
		for len(row) < 20 {
			row = append(row, with)
		}
		return row
	}
	want := Batch{
		B: 2, T: 10, LossTokens: 5, Sequences: 1,
		Tokens:    pad([]int32{'a', 'b', 'c', 'd', e, 'e', 'f'}, e),
		Labels:    pad([]int32{-1, 'c', 'd', e, -1, 'f', e}, -1),
		Positions: pad([]int32{0, 1, 2, 3, 4, 0, 1}, 0),
		DocStart:  []int32{0, 0, 0, 0, 0, 5, 5, 5, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
	}
	want.Tokens[7], want.Labels[7], want.Positions[7] = e, -1, 2
	if got := leaves[0][0]; !reflect.DeepEqual(got, want) {
		t.Fatalf("got\n%+v\nwant\n%+v", got, want)
	}
	o.LossOn = OnAll
	_, leaves = collect(t, mustOpen(t, o).Stream(Cursor{}, 0), 2)
	if got, want := leaves[0][0].LossTokens, 6; got != want {
		t.Fatalf("loss_on all: %d tokens count, want %d", got, want)
	}
}

func TestOverlong(t *testing.T) {
	path := texts(t, t.TempDir(), "a.jsonl", []int{5, 30, 8})
	o := Options{Sources: []Source{{Path: path, Format: Text}}, SequenceLen: 8, GlobalBatch: 1, MicroBatch: 1, Epochs: 1}
	for _, c := range []struct {
		overlong Overlong
		want     string
	}{
		{Truncate, "3 of 3 records, 21 tokens (18 count), 1 truncated (longest 30 tokens)"},
		{Drop, "2 of 3 records, 13 tokens (11 count), 1 dropped as too long (longest 30 tokens)"},
		{Refuse, ":2: record longer than the sequence: 30 tokens, sequence_len is 8 (overlong: error)"},
	} {
		o.Overlong = c.overlong
		d, err := Open(context.Background(), o, bytesEncoder{})
		var got string
		if err != nil {
			got = err.Error()
		} else {
			got = d.Stats()[0].String()
		}
		if !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: got %q, want ...%q", c.overlong, got, c.want)
		}
	}
}

func TestTextFileIsCut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.txt", "0123456789")
	write(t, dir, "a.txt", "\xef\xbb\xbfabcd")
	o := Options{
		Sources: []Source{{Path: filepath.Join(dir, "*.txt"), Format: Text}}, SequenceLen: 4, GlobalBatch: 8, MicroBatch: 8, Epochs: 1,
	}
	d := mustOpen(t, o)
	_, leaves := collect(t, d.Stream(Cursor{}, 0), 2)
	want := "abcd|0123|4567|89"
	if got := strings.Join(documents(t, leaves[0][0]), "|"); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if s := d.Stats()[0]; s.Records != 5 || s.Untrained != 1 {
		t.Fatalf("got %+v, want 5 pieces, one of them a lone end token", s)
	}
}

func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		file, content string
		format        Format
		want          string
	}{
		"not JSON":       {"a.jsonl", "{\"text\": \"x\"}\n{\"text\": }\n", Text, "a.jsonl:2: not JSON at byte 10: invalid character '}' looking for beginning of value"},
		"two values":     {"b.jsonl", `{"text": "x"} {"text": "y"}`, Text, "b.jsonl:1: not JSON at byte 15: invalid character '{' after top-level value"},
		"not UTF-8":      {"c.jsonl", "{\"text\": \"x\xff\"}\n", Text, "c.jsonl:1: byte 11 (0xff) is not UTF-8"},
		"missing":        {"d.jsonl", `{"txt": "x"}`, Text, `d.jsonl:1: want an object with a string "text"`},
		"missing half":   {"e.jsonl", `{"prompt": "x"}`, Completion, `e.jsonl:1: want an object with strings "prompt" and "completion"`},
		"wrong type":     {"f.jsonl", `{"text": 7}`, Text, `f.jsonl:1: "text": want a string, got number`},
		"array":          {"g.jsonl", `[1]`, Text, `g.jsonl:1: want a JSON object, got array`},
		"empty":          {"h.jsonl", "\n \n", Text, "no training data: no records"},
		"empty text":     {"i.txt", "", Text, "no training data: no records"},
		"encoder":        {"j.jsonl", "{\"text\": \"ok\"}\n\n{\"text\": \"refuse me\"}", Text, "j.jsonl:3: refused"},
		"nothing counts": {"k.jsonl", `{"text": ""}`, Text, "no training data: no token counts in any of 1 records: the chat template or loss_on marks nothing"},
		"text format":    {"l.txt", "x", Completion, "l.txt: a .txt file has format text, not completion"},
		"text bytes":     {"m.txt", "ab\xc3", Text, "m.txt: byte 2 (0xc3) is not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{
				Sources:     []Source{{Path: write(t, dir, c.file, c.content), Format: c.format}},
				SequenceLen: 16, GlobalBatch: 1, MicroBatch: 1, Epochs: 1,
			}
			_, err := Open(context.Background(), o, bytesEncoder{})
			if err == nil || !strings.HasSuffix(err.Error(), c.want) {
				t.Fatalf("got %v, want ...%q", err, c.want)
			}
		})
	}
	for _, path := range []string{filepath.Join(dir, "none.jsonl"), filepath.Join(dir, "none*"), dir} {
		o := Options{Sources: []Source{{Path: path, Format: Text}}, SequenceLen: 16, GlobalBatch: 1, MicroBatch: 1, Epochs: 1}
		if _, err := Open(context.Background(), o, bytesEncoder{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that names it", path, err)
		}
	}
}

// Of several faulty records the first is reported, whichever goroutine is faster.
func TestFirstFaultIsReported(t *testing.T) {
	var b bytes.Buffer
	for i := range 4000 {
		if i >= 1000 && i%7 == 0 {
			b.WriteString("broken\n")
		} else {
			b.WriteString("{\"text\": \"fine\"}\n")
		}
	}
	path := write(t, t.TempDir(), "a.jsonl", b.String())
	for range 20 {
		o := Options{Sources: []Source{{Path: path, Format: Text}}, SequenceLen: 16, GlobalBatch: 1, MicroBatch: 1, Epochs: 1, Workers: 4}
		_, err := Open(context.Background(), o, bytesEncoder{})
		if err == nil || !strings.Contains(err.Error(), "a.jsonl:1002: ") {
			t.Fatalf("got %v, want the error of line 1002", err)
		}
	}
}

func TestCursorOutsideTheData(t *testing.T) {
	o := Options{
		Sources: []Source{{Path: texts(t, t.TempDir(), "a.jsonl", []int{5, 6}), Format: Text}}, SequenceLen: 8,
		GlobalBatch: 1, MicroBatch: 1, Epochs: 2,
	}
	d := mustOpen(t, o)
	for _, c := range []Cursor{{Sample: 2}, {Sample: -1}, {Epoch: -1}, {Epoch: 2}} {
		if _, err := d.Stream(c, 1).Next(context.Background()); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%+v: got %v, want an error", c, err)
		}
	}
	if _, err := d.Stream(Cursor{Epoch: 2}, 4).Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("after the last step: got %v, want io.EOF", err)
	}
}

func TestValidateReportsAll(t *testing.T) {
	err := Options{Sources: []Source{{Format: "csv", Weight: -1}}, LossOn: "none", Overlong: "wrap", HoldOut: 1, Part: "x"}.Validate()
	for _, want := range []string{"path: empty", `"csv"`, "weight: -1", "sequence_len: 0", "loss_on", "overlong", "hold_out: 1", "part", "global batch", "epochs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from %v", want, err)
		}
	}
}
