package worker

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/telemetry"
	"github.com/zerofleet/zerofleet/train"
)

// A file of traces has whole lines only, whatever an earlier life left, and does not grow for ever.
func TestTracesFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "logs", "worker-0.trace.jsonl")
	steps := func() (all []int64) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var s telemetry.StepTrace
			if err := json.Unmarshal(line, &s); err != nil {
				t.Fatalf("%v: %.80s", err, line)
			}
			all = append(all, s.Step)
		}
		return all
	}
	began := time.Unix(100, 7)
	life := func(name string, steps ...int64) {
		t.Helper()
		f := openTraces(dir, "0", slog.New(slog.DiscardHandler))
		for _, step := range steps {
			f.write(2, 1, step, []train.Span{{Name: name, Collective: true, Start: began, End: began.Add(time.Millisecond)}})
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
	life("short", 2, 4)
	life("short", 8)
	if got := steps(); len(got) != 3 || got[2] != 8 {
		t.Errorf("got steps %v, want 2, 4 and 8", got)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"generation":2,"rank":1,"step":2,"spans":[{"name":"short","collective":true,"start":100000000007,"nanos":1000000}]}` + "\n"; !strings.HasPrefix(string(b), want) {
		t.Errorf("got %.120s, want %s", b, want)
	}
	if err := os.WriteFile(path, b[:len(b)-5], 0o644); err != nil { // killed while it wrote
		t.Fatal(err)
	}
	life("short", 16)
	if got := steps(); len(got) != 1 || got[0] != 16 {
		t.Errorf("got steps %v, want 16 alone", got)
	}
	life(strings.Repeat("x", maxTraceBytes/2), 32, 50, 64)
	if got := steps(); len(got) != 1 || got[0] != 64 {
		t.Errorf("got steps %v, want 64 alone: each is half of what there is room for", got)
	}
}
