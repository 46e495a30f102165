package data

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/tokenizer"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A cancelled Open returns, and leaves no goroutine.
func TestOpenCancelled(t *testing.T) {
	path := write(t, t.TempDir(), "a.jsonl", strings.Repeat("{\"text\": \"x\"}\n", 50_000))
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{Sources: []Source{{Path: path, Format: Text}}, SequenceLen: 8, GlobalBatch: 1, MicroBatch: 1, Epochs: 1, Workers: 3}
	enc := cancelling{cancel: cancel}
	if _, err := Open(ctx, o, enc); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	d := mustOpen(t, o)
	if _, err := d.Stream(Cursor{}, 0).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
}

// cancelling ends its context at the first record.
type cancelling struct {
	bytesEncoder
	cancel context.CancelFunc
}

func (c cancelling) Encode(r Record) (Document, error) {
	c.cancel()
	return c.bytesEncoder.Encode(r)
}

// Whatever a file holds, Open ends with an error that names it, or with records
// that the stream sees once each.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"text": "x"}`+"\n\n"+`{"text": "yz"}`), "text")
	f.Add([]byte(`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": []}`), "messages")
	f.Add([]byte(`{"prompt": "x", "completion": "y"}`+"\r\n"+`{"prompt": "", "completion": ""}`), "completion")
	f.Add([]byte("\xef\xbb\xbf{\"text\": \"\\ud800\"}"), "text")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, format string) {
		path := filepath.Join(dir, "data.jsonl")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{
			Sources: []Source{{Path: path, Format: Format(format)}}, SequenceLen: 16, Packing: true, Shuffle: true,
			GlobalBatch: 3, MicroBatch: 2, Epochs: 1, Workers: 2,
		}
		d, err := Open(context.Background(), o, NewEncoder(tokenizer.Bytes(), nil))
		if err != nil {
			if o.Validate() == nil && !strings.Contains(err.Error(), path) {
				t.Fatalf("error does not name the file: %v", err)
			}
			return
		}
		steps, _ := collect(t, d.Stream(Cursor{}, 0), 1<<20)
		tokens := 0
		for _, g := range steps {
			tokens += g.Tokens
		}
		if int64(tokens) != d.Stats()[0].Tokens || len(steps) != d.Steps() {
			t.Fatalf("%d tokens in %d steps, want %d in %d", tokens, len(steps), d.Stats()[0].Tokens, d.Steps())
		}
	})
}
