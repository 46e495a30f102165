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

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

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
		f := openTraces(dir, "0", noop.NewTracerProvider().Tracer(""), slog.New(slog.DiscardHandler))
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

// A collector is sent a step as one trace: a span for it, and one under it for each thing that it did, at the time it was done.
func TestTracesAreSpans(t *testing.T) {
	dir := t.TempDir()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	f := openTraces(dir, "0", provider.Tracer("test"), slog.New(slog.DiscardHandler)) // its folder is not there: the spans go all the same
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	f.write(2, 1, 8, []train.Span{{Name: "forward embed", Start: at(1), End: at(3)}, {Name: "all-gather block.1", Collective: true, Start: at(0), End: at(5)}})
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	got := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range recorder.Ended() {
		got[s.Name()] = s
	}
	whole := got["step"]
	if len(got) != 3 || whole == nil || !whole.StartTime().Equal(at(0)) || !whole.EndTime().Equal(at(5)) || whole.Parent().IsValid() {
		t.Fatalf("spans %v: want a step from 0 to 5 ms and two under it", got)
	}
	for name, want := range map[string][2]int{"forward embed": {1, 3}, "all-gather block.1": {0, 5}} {
		s := got[name]
		if s == nil || s.Parent().SpanID() != whole.SpanContext().SpanID() || !s.StartTime().Equal(at(want[0])) || !s.EndTime().Equal(at(want[1])) {
			t.Errorf("%s: %v, want it under the step, from %d to %d ms", name, s, want[0], want[1])
		}
	}
	for _, a := range whole.Attributes() {
		if want := map[string]int64{"step": 8, "rank": 1, "generation": 2}[string(a.Key)]; a.Value.AsInt64() != want {
			t.Errorf("the step's %s is %v, want %d", a.Key, a.Value, want)
		}
	}
}
